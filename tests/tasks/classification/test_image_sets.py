"""Streamed images in whole runs: training, evaluation, prediction, export, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import RealData
from tests.data.streams import CLASSES, colour, encoded, write_folder, write_parquet, write_tar
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import silent
from torchvision.models import ResNet18_Weights

from rlkd import distributed, models
from rlkd.cli import main
from rlkd.config.compose import configure
from rlkd.data import ImageSet, StreamSet
from rlkd.data.imagenet_names import WNIDS, readable
from rlkd.distributed import Rank
from rlkd.engine import build
from rlkd.engine import run as running
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.reporting import Result
from rlkd.tasks.classification.data import (
    Sets,
    example_batch,
    load_sets,
    plain_loader,
    probe_batch,
    train_loader,
)
from rlkd.tasks.classification.export import exportable_classifier
from rlkd.text_files import read_object, write_object

pytestmark = pytest.mark.usefixtures("plainly")

SMALL = (
    *("data.image_size=16", "data.resize=18", "data.workers=0"),
    *("trainer.epochs=2", "trainer.batch_size=8", "trainer.evaluate_every=1"),
    *("trainer.accelerator=cpu", "trainer.threads=1", "temperature=constant", "probe.size=0"),
)
LEARNING = (
    *("temperature=rlkd", "temperature.warmup_epochs=0", "temperature.update_interval=1"),
    *("temperature.probe_interval=1", "temperature.metric=loss", "exploration.epochs=2"),
    "probe.size=4",
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three classes that has learnt nothing."""
    path = tmp_path_factory.mktemp("streams") / "teacher.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.create("convnet_small", num_classes=3)
    torch.save({"model": network.state_dict()}, path)
    return path


def streaming(data: str, root: Path, *more: str) -> list[str]:
    names = ["data.class_names=[a,b,c]"] if data == "webdataset" else []
    given = [*SMALL, *names, *more]
    last = {each.partition("=")[0]: each for each in given}
    return [f"data={data}", f"data.root='{root}'", *last.values()]


def distilled(data: str, root: Path, teacher: Path, output: Path, *more: str) -> RunFolder:
    words = [f"teacher.checkpoint='{teacher}'", f"output='{output}'", *more]
    running.distill(streaming(data, root, *words), console=silent())
    return RunFolder(output)


def sets_of(root: Path, *more: str) -> tuple[Sets, build.TrainerOptions]:
    config = configure(streaming("imagenet", root, *more))
    options = build.trainer_options(config)
    return load_sets(config, options), options


WRITERS: dict[str, Callable[[Path], Path]] = {
    "imagenet": write_folder,
    "parquet": write_parquet,
    "webdataset": write_tar,
}


@pytest.mark.long
def test_a_run_is_the_same_with_workers_and_without(tmp_path: Path, teacher: Path) -> None:
    root = write_folder(tmp_path / "data")

    runs: list[RunFolder] = []
    for count in (0, 2):
        words = (f"data.workers={count}", *LEARNING)
        runs.append(distilled("imagenet", root, teacher, tmp_path / f"run{count}", *words))
    one, other = (load_file(run.student) for run in runs)
    assert all(torch.equal(each, other[name]) for name, each in one.items())
    assert runs[0].policy.read_text() == runs[1].policy.read_text()
    names = read_object(runs[0].path / "class_names.json", "")
    assert names == {"class_names": list(CLASSES)}
    assert not (runs[0].path / "unreadable.json").exists()


@pytest.mark.parametrize("data", WRITERS)
def test_every_layout_is_one_of_the_data_to_choose_from(data: str, tmp_path: Path) -> None:
    config = configure(streaming(data, WRITERS[data](tmp_path)))
    sets = load_sets(config, build.trainer_options(config))
    assert sets.dataset.class_names == CLASSES
    assert (len(sets.train), len(sets.test), sets.dataset.shape) == (24, 24, (3, 16, 16))
    assert sets.train.target.bincount().tolist() == [8, 8, 8]


def test_what_is_held_out_is_not_trained_on_and_the_probe_is_decoded_once(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    sets, options = sets_of(root, "probe.size=4", "trainer.validation_size=5")
    assert isinstance(sets.train, StreamSet)
    assert isinstance(sets.validation, StreamSet)
    assert isinstance(sets.probe, ImageSet)
    rows = [each.row.tolist() for each in (sets.train, sets.validation)]
    assert (len(rows[0]), len(rows[1]), len(sets.probe)) == (15, 5, 4)
    assert not set(rows[0]) & set(rows[1])
    probe = probe_batch(sets, options)
    assert probe is not None
    mean, std = (
        torch.tensor(each)[:, None, None] for each in (sets.dataset.mean, sets.dataset.std)
    )
    levels = ((probe.image * std + mean) * 255).round().int()[:, :, 0, 0].tolist()
    seen = {colour(number): number for number in range(24)}
    held = {seen[red, green] for red, green, _ in levels}
    source = sets.train.source
    trained = {
        number for number in range(24) for row in rows[0] if source.encoded(row) == encoded(number)
    }
    assert len(held) == 4
    assert len(trained) == 15
    assert not held & trained


def test_ranks_share_batches_and_each_has_the_whole_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path)
    sets, options = sets_of(root, "probe.size=4", "trainer.batch_size=9", "trainer.accumulate=1")
    monkeypatch.setattr(distributed, "this_rank", lambda: Rank(1, 3))
    loader = train_loader(sets, options, seed=0)
    # 20 images in batches of 9 leave 2, too few for three ranks.
    assert [len(batch.index) for batch in loader] == [3, 3]
    probe = probe_batch(sets, options)
    assert probe is not None
    assert len(probe.index) == 4
    plain = plain_loader(sets.test, sets.dataset, options, part=distributed.this_rank())
    assert torch.equal(torch.cat([b.index for b in plain]), torch.arange(1, 24, 3))
    options.batch_size = 10
    with pytest.raises(UserError, match=r"trainer\.batch_size=10 is the batch of all 3 ranks"):
        train_loader(sets, options, seed=0)


def test_skipped_images_are_counted_and_named_in_the_runs_folder(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "data")
    (root / "train/b/04.png").write_bytes(b"rubbish")
    (root / "val/c/05.png").write_bytes(b"")
    run = distilled(
        "imagenet", root, teacher, tmp_path / "run", "data.unreadable=skip", "data.workers=2"
    )
    told = json.loads((run.path / "unreadable.json").read_text())
    assert told["count"] == 2
    assert {Path(each).name for each in told["places"]} == {"04.png", "05.png"}
    assert Result.read(run.result).images.training == 23
    assert main(["evaluate", f"run={run.path}"]) == 0
    said = capsys.readouterr().out
    assert "on 23 test images" in said
    assert_told(said, r"1 image that cannot be decoded was skipped .*val/c/05\.png")


def test_a_folder_in_memory_does_without_what_cannot_be_decoded(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "data")
    (root / "train/b/04.png").write_bytes(b"rubbish")
    (root / "val/c/05.png").write_bytes(b"")
    words = [f"teacher.checkpoint='{teacher}'", f"output='{tmp_path / 'run'}'"]
    given = [each for each in streaming("folder", root, *words) if "resize" not in each]
    given.remove("data.workers=0")
    assert main(["distill", *given]) == 2
    assert_told(capsys.readouterr().err, r"train/b/04\.png cannot be .*data\.unreadable=skip$")
    assert main(["distill", *given, "data.unreadable=skip"]) == 0
    run = RunFolder(tmp_path / "run")
    told = read_object(run.path / "unreadable.json", "")
    assert {Path(each).name for each in told["places"]} == {"04.png", "05.png"}
    assert Result.read(run.result).images.training == 23
    images = (root / "train").rename(tmp_path / "images")  # the run's folder is all there is
    predicting = ["predict", f"run={run.path}", f"images={images}", f"output={tmp_path / 'out'}"]
    assert main(predicting) == 0
    assert main([*predicting, "skip_unreadable=false"]) == 2
    assert main([*predicting, "data.unreadable=stop"]) == 2
    assert main([*predicting, "data.unreadable=skip"]) == 0


def test_a_runs_student_predicts_and_is_exported_without_the_images_that_it_was_trained_on(
    tmp_path: Path, teacher: Path, refuse: Refuse, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "data")
    run = distilled("imagenet", root, teacher, tmp_path / "run")
    words = ("predict", f"run={run.path}", f"images={root / 'val'}")
    away = ("data.mean=[0.4,0.4,0.4]", f"output={tmp_path / 'other'}")
    found: list[str] = []
    for kept in (True, False):  # once more as where a run left no description of its images
        if not kept:
            (run.path / "preprocessing.json").rename(tmp_path / "kept.json")
        assert main([*words, f"output={tmp_path / str(kept)}"]) == 0
        found.append((tmp_path / str(kept) / "predictions.json").read_text())
    assert found[0] == found[1]
    (tmp_path / "kept.json").rename(run.path / "preprocessing.json")
    images = (root / "val").rename(tmp_path / "images")
    (root / "train").rename(tmp_path / "gone")
    words = (*words[:2], f"images={images}")
    assert main([*words, f"output={tmp_path / 'without'}"]) == 0
    assert (tmp_path / "without" / "predictions.json").read_text() == found[0]
    assert_told(refuse(*words, *away), "data/train: put the images into")
    exported = ("export", f"run={run.path}", "format=safetensors")
    said = refuse(*exported, f"to={tmp_path / 'other.safetensors'}", away[0])
    assert_told(said, "data/train: put the images into")
    assert main([*exported, f"to={tmp_path / 'exported' / 'one.safetensors'}"]) == 0
    facts = json.loads((tmp_path / "exported" / "one.safetensors.json").read_text())
    assert facts["class_names"] == ["a", "b", "c"]
    assert "images" not in facts
    assert facts["input"]["shape"] == ["batch", 3, 16, 16]
    assert 0 <= facts["max_difference"] <= 1e-4
    assert "are compared on random pixels" in capsys.readouterr().err
    kept = read_object(run.path / "preprocessing.json", "")
    for key, wrong in (
        *(("shape", each) for each in ([], [3, 16], [2, 16, 16], [3, -1, 16], "x", [3, 1e9, 1])),
        *(("resize", each) for each in ("x", -5, 10**9, 1.5)),
        *(("mean", each) for each in (None, [0.5], "x", [2, 2, 2])),
        *(("std", each) for each in ([0, 0, 0], 3)),
    ):
        write_object(run.path / "preprocessing.json", {**kept, key: wrong})
        told = refuse(*words, f"output={tmp_path / 'broken'}")
        assert_told(told, r"preprocessing\.json.*remove it, and give the data$")
    write_object(run.path / "preprocessing.json", {"shape": [3, 16, 16]})
    assert_told(refuse(*words, f"output={tmp_path / 'broken'}"), r"describes no images \('resize'")


def test_skipped_images_are_written_at_each_scoring_and_taken_up_by_what_resumes(
    tmp_path: Path, teacher: Path
) -> None:
    root = write_folder(tmp_path / "data")
    run = RunFolder(tmp_path / "run")
    settings = [f"teacher.checkpoint='{teacher}'", f"output='{run.path}'", "data.unreadable=skip"]
    config = configure(streaming("imagenet", root, *settings))
    options = build.trainer_options(config)
    for broken, whole in (("val/c/05.png", "val/a/00.png"), ("val/a/00.png", "val/c/05.png")):
        (root / whole).write_bytes(encoded(0))
        (root / broken).write_bytes(b"")
        prepared = build.task(config).prepare(config, options)
        prepared.enter(run)
        prepared.scores()
    told = json.loads((run.path / "unreadable.json").read_text())
    assert [Path(each).name for each in told["places"]] == ["05.png", "00.png"]
    (run.path / "unreadable.json").write_text("[]")
    with pytest.raises(UserError, match=r"unreadable\.json .*; fix or remove it"):
        prepared.enter(run)


def test_where_the_first_images_cannot_be_decoded_the_next_are_taken(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    for split in ("train", "val"):
        for file in (root / split / "a").iterdir():  # rows 0 to 7
            file.write_bytes(b"")
    sets, options = sets_of(root, "data.unreadable=skip")
    assert example_batch(sets, options).target.tolist() == [1] * 8
    network = models.create("convnet_small", num_classes=3)
    made = exportable_classifier("convnet_small", lambda _: network, sets.dataset, options)
    assert [len(batch) for batch in made.inputs] == [2, 1, 5]
    assert made.facts["images"] == {"test on": 24}


def test_an_unreadable_image_stops_a_run_with_one_line(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "data")
    (root / "train/b/04.png").write_bytes(b"rubbish")
    words = streaming("imagenet", root, f"teacher.checkpoint='{teacher}'", "data.workers=2")
    assert main(["distill", *words, f"output='{tmp_path / 'run'}'"]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert_told(told, r"train/b/04\.png cannot be decoded .*data\.unreadable=skip")


def other_order(root: Path) -> Path:
    """The same images, but class b is called z and so comes last."""
    for split in ("train", "val"):
        (root / split / "b").rename(root / split / "z")
    return root


def test_weights_of_another_class_order_are_refused(
    tmp_path: Path, teacher: Path, refuse: Refuse
) -> None:
    root = write_folder(tmp_path / "data")
    run = distilled("imagenet", root, teacher, tmp_path / "run", "trainer.epochs=1")
    other_order(root)
    weights = f"student.checkpoint='{run.student}'"
    data = streaming("imagenet", root, weights)
    told = refuse("evaluate", *data)
    assert_told(told, "another class order than the data: class 1 is b, of the data c")
    images = f"images={root / 'val'}"
    assert_told(refuse("predict", *data, images), "class 1 is b, of the data c")
    run.result.unlink()
    settings = [f"teacher.checkpoint='{teacher}'", f"output='{run.path}'", "trainer.epochs=1"]
    told = refuse("distill", *streaming("imagenet", root, *settings))
    assert_told(told, r"class_names\.json has another class order .* class 1 is b")


def as_imagenet(root: Path) -> Path:
    """The same images in folders that are called by ids of ImageNet."""
    write_folder(root)
    for split in ("train", "val"):
        for name, wnid in zip(CLASSES, WNIDS, strict=False):
            (root / split / name).rename(root / split / wnid)
    return root


def test_a_student_of_imagenets_classes_names_them_as_people_do(
    tmp_path: Path, teacher: Path
) -> None:
    root = as_imagenet(tmp_path / "data")
    run = distilled("imagenet", root, teacher, tmp_path / "run", "trainer.epochs=1")
    assert main(["predict", f"run={run.path}", f"images={root / 'val'}"]) == 0
    answers = read_object(run.path / "predictions" / "predictions.json", "")["predictions"]
    called = {each["class"] for one in answers for each in one["classes"]}
    assert called == {"tench", "goldfish", "great white shark"}
    file = tmp_path / "student.safetensors"
    assert main(["export", f"run={run.path}", "format=safetensors", f"to={file}"]) == 0
    facts = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert facts["class_names"] == list(WNIDS[:3])
    assert facts["readable_names"] == ["tench", "goldfish", "great white shark"]
    assert facts["input"]["shape"] == ["batch", 3, 16, 16]
    assert "resized to 18" in facts["input"]["values"]


def test_the_classes_of_imagenets_folders_are_torchvisions_categories(
    real_data: RealData,
) -> None:
    root = real_data("imagenet_sample")
    sets, _ = sets_of(root, "data.train=val", "data.test=val")
    assert torch.equal(sets.test.target, torch.arange(1000))
    categories = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert readable(sets.dataset.class_names) == tuple(categories)
