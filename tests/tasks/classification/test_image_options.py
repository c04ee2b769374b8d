"""Images of any size and colour: the options through training, scoring, predicting, exporting."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tests.support.detection_runs import SHAPES
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import silent
from torch import Tensor

from rlkd import models
from rlkd.cli import main
from rlkd.config.compose import configure
from rlkd.data import Dataset, StreamSet, in_memory
from rlkd.data.transforms.resized_crop import Views, fitted, pixel_size
from rlkd.engine.build import network, trainer_options
from rlkd.engine.run import distill, score_checkpoints
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import Result
from rlkd.tasks.classification.data import load_dataset, plain_loader
from rlkd.text_files import read_object

pytestmark = pytest.mark.usefixtures("plainly")

SHORT = (
    *("trainer.epochs=1", "trainer.batch_size=6", "trainer.accelerator=cpu"),
    *("trainer.threads=1", "temperature=constant", "probe.size=0"),
)
WISHES = ("data.image_size=[16,24]", "data.channels=1", "data.mean=[0.4]", "data.std=[0.2]")
LAYOUTS = {
    "folder": ("data=folder",),
    "imagenet": ("data=imagenet", "data.resize=20", "data.workers=0", "data.test=test"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve coloured images of noise of unlike sizes to train on, four to test on, two classes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (30 + number, 40 - number, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).resize((33, 31 + number))
                image.save(tmp_path / "data" / split / name / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = models.create("convnet_small", num_classes=2, in_channels=1)
    models.save_weights(made, tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def settings(layout: str, root: Path, teacher: Path, *more: str) -> list[str]:
    given = [*LAYOUTS[layout], f"data.root={root}", *WISHES, *SHORT]
    given += ["teacher=convnet_small", f"teacher.checkpoint={teacher}", "student=convnet_tiny"]
    return [*given, *more]


def expected_probabilities(run: RunFolder, dataset: Dataset) -> Tensor:
    """What a run's student says of the test images, by the set's own loader."""
    config: Any = OmegaConf.load(run.config)
    config.student.checkpoint = str(run.student)
    student = network(config.student, "student", dataset).eval()
    (batch,) = plain_loader(dataset.test, dataset, trainer_options(config))
    with torch.no_grad():
        return student(batch.image).softmax(dim=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_size_channels_and_normalisation_go_through_all_that_a_run_leads_to(
    layout: str, root: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    more = ("teacher.image_size=[32,40]", f"output={run.path}")
    distill(settings(layout, root, teacher, *more), console=silent())
    config: Any = OmegaConf.load(run.config)
    assert config.data.image_size == [16, 24]
    assert (config.data.channels, config.data.mean, config.data.std) == (1, [0.4], [0.2])
    dataset = load_dataset(config)
    assert dataset.shape == (1, 16, 24)
    assert (dataset.mean, dataset.std) == ((0.4,), (0.2,))

    score = score_checkpoints([f"run={run.path}"], console=silent())
    assert score["student"] == Result.read(run.result).test

    capsys.readouterr()
    assert main(["predict", f"run={run.path}", f"images={root / 'test'}"]) == 0
    answers = read_object(run.path / "predictions" / "predictions.json", "")["predictions"]
    expected = expected_probabilities(run, dataset)
    assert [each["file"] for each in answers] == [
        "cat/0.png",
        "cat/1.png",
        "dog/0.png",
        "dog/1.png",
    ]
    assert len(expected.unique(dim=0)) == 4
    for one, row in zip(answers, expected, strict=True):
        said = {each["class"]: each["probability"] for each in one["classes"]}
        told = torch.tensor([said["cat"], said["dog"]])
        torch.testing.assert_close(told, row, rtol=1e-6, atol=1e-7)

    file = tmp_path / "out" / "student.safetensors"
    assert main(["export", f"run={run.path}", "format=safetensors", f"to={file}"]) == 0
    given = json.loads(file.with_name(f"{file.name}.json").read_text())["input"]
    assert given["shape"] == ["batch", 1, 16, 24]
    assert (given["mean"], given["std"]) == ([0.4], [0.2])
    frame = {"folder": "16 x 24", "imagenet": "20 x 30"}[layout]
    assert "float32: grey pixels in [0, 1]" in given["values"]
    assert given["values"].endswith(f"resized until it just covers {frame}, the middle cut out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"batch x 1 x 16 x 24, {given['values']}; mean [0.4], std [0.2]" in card


@pytest.mark.parametrize("layout", LAYOUTS)
def test_grey_images_are_pillows_grey_of_the_coloured(layout: str, root: Path) -> None:
    given = [*LAYOUTS[layout], f"data.root={root}", "data.channels=1"]
    given += ["data.resize=31", "data.image_size=31"] if layout == "imagenet" else []
    test = load_dataset(configure([*given, "data.image_size=31"])).test
    images = in_memory(test) if isinstance(test, StreamSet) else test
    with Image.open(root / "test" / "cat" / "0.png") as opened:  # 33 wide, 31 high
        expected = np.asarray(opened.convert("L"))[:, 1:32]
    assert np.array_equal(images.image[0, 0], expected)


def test_a_grey_set_has_a_normalisation_of_one_channel(root: Path) -> None:
    dataset = load_dataset(configure(["data=folder", f"data.root={root}", "data.channels=1"]))
    assert (dataset.mean, dataset.std) == ((0.449,), (0.226,))


@pytest.mark.parametrize("data", ["digits", "folder", "imagenet"])
def test_null_is_the_sets_own_normalisation(data: str, root: Path) -> None:
    given = [] if data == "digits" else [f"data.root={root}"]
    given += ["data.test=test"] if data == "imagenet" else []
    own = load_dataset(configure([f"data={data}", *given]))
    other = load_dataset(configure([f"data={data}", *given, f"data.mean={[0.5] * len(own.mean)}"]))
    assert other.mean == (0.5,) * len(own.mean) != own.mean
    assert other.std == own.std


def test_the_teachers_own_size_counts_in_its_score_and_where_features_are_tapped(
    root: Path, teacher: Path, tmp_path: Path
) -> None:
    def score(*more: str) -> float:
        given = settings("folder", root, teacher, *more)
        scores: Any = score_checkpoints(given, console=silent())["teacher"]
        return scores.loss

    plain = score()
    assert score("teacher.image_size=[16,24]") == plain
    assert score("teacher.image_size=40") != plain
    more = ("teacher.image_size=40", "method=sp", f"output={tmp_path / 'run'}")
    result = distill(settings("folder", root, teacher, *more), console=silent())
    taught: Any = result.teacher
    assert taught.loss == pytest.approx(score("teacher.image_size=40"), rel=1e-6)


WRONG = {
    "data.image_size=[16,24,3]": r"data\.image_size=\[16, 24, 3\]: give .*, or \[HEI",
    "data.image_size=[16]": r"data\.image_size=\[16\]: give 1 or more pixels",
    "data.image_size=[16,0]": r"data\.image_size=\[16, 0\]: give 1 or more pixels",
    "data.image_size=16.5": r"data\.image_size=16\.5: give 1 or more pixels",
    "data.image_size=large": r"data\.image_size=large: give 1 or more pixels",
    "data.image_size=true": r"data\.image_size=[Tt]rue: give ",
    "data.channels=4": r"data\.channels=4: give 3 for colour, or 1 for grey",
    "data.channels=grey": r"data\.channels=grey: give 3 for colour, or 1 for grey",
    "data.mean=[0.5]": r"data\.mean=\[0\.5\]: give 3 numbers, one a channel, from 0 to 1",
    "data.mean=0.5": r"data\.mean=0\.5: give 3 numbers",
    "data.mean=[123.7,116.3,103.5]": r"data\.mean=\[123\.7, 116\.3, 103\.5\]: .*, for pixels in \[",
    "data.std=[0.5,0.5,0]": r"data\.std=\[0\.5, 0\.5, 0\]: give 3 numbers, one a channel, above 0",
    "data.std=[a,b,c]": r"data\.std=\['a', 'b', 'c'\]: give 3 numbers",
    "teacher.image_size=0": r"teacher\.image_size=0: give 1 or more pixels",
    "teacher.image_size=[8,8,8]": r"teacher\.image_size=\[8, 8, 8\]: give 1 or more pixels",
    "teacher.mean=[0.5]": r"teacher\.mean=\[0\.5\]: give 3 numbers, one a channel",
}


@pytest.mark.parametrize("setting", WRONG)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrong_values_are_refused_in_one_line(
    layout: str, setting: str, root: Path, tmp_path: Path, refuse: Refuse
) -> None:
    made = models.create("convnet_small", num_classes=2)
    models.save_weights(made, tmp_path / "teacher.safetensors")
    given = [*LAYOUTS[layout], f"data.root={root}", *SHORT, "teacher=convnet_small"]
    given += [f"teacher.checkpoint={tmp_path / 'teacher.safetensors'}", "student=convnet_tiny"]
    given += [] if setting.startswith("data.image_size") else ["data.image_size=16"]
    told = refuse("distill", *given, setting, f"output={tmp_path / 'run'}")
    assert_told(told, WRONG[setting])


def test_a_detector_resizes_by_itself(refuse: Refuse, detector_file: Path, tmp_path: Path) -> None:
    given = ["task=detection", *SHAPES, "probe.size=4", "teacher=fasterrcnn_tiny"]
    given += [f"teacher.checkpoint={detector_file}", "teacher.image_size=64"]
    told = refuse("distill", *given, f"output={tmp_path / 'run'}")
    assert_told(told, r"teacher\.image_size=64: a detector resizes images itself: .*min_size")


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (7, 50)])
@pytest.mark.parametrize("shape", [(40, 40), (30, 90), (90, 30), (24, 36), (1, 60), (60, 1)])
@pytest.mark.parametrize("resize", [None, 24])
def test_any_image_fills_any_size(
    size: tuple[int, int], shape: tuple[int, int], resize: int | None
) -> None:
    image = torch.randint(0, 256, (1, *shape), dtype=torch.uint8)
    assert fitted(image, size, resize).shape == (1, *size)
    views = Views(size=size, resize=resize or 16)
    for seed in range(5):
        crop = views.draw(*shape, torch.Generator().manual_seed(seed))
        assert views.cut(image, crop).shape == (1, *size)


def test_what_is_fitted_keeps_its_proportions_and_its_middle() -> None:
    row = torch.arange(96, dtype=torch.uint8).expand(1, 32, 96)
    # Covers 16 x 24 at half its size, 16 x 48, of which columns 12 to 35 are kept.
    found = fitted(row, (16, 24))[0, 8].float()
    expected = torch.arange(24) * 2.0 + 24.5
    assert (found - expected).abs().max() <= 0.5
    assert torch.equal(fitted(row, (32, 96)), row)


@pytest.mark.parametrize("size", [(32, 96), (96, 32)])
def test_random_crops_have_the_proportions_of_the_size_to_a_third(size: tuple[int, int]) -> None:
    views = Views(size=size, resize=32, smallest_area=0.02)
    crops = [views.draw(300, 300, torch.Generator().manual_seed(seed)) for seed in range(200)]
    shares = [crop.width / crop.height * size[0] / size[1] for crop in crops]
    assert min(shares) == pytest.approx(3 / 4, rel=0.06)
    assert max(shares) == pytest.approx(4 / 3, rel=0.06)


def test_a_size_is_one_number_or_two() -> None:
    assert pixel_size(64, "x") == (64, 64)
    assert pixel_size([64, 96], "x") == (64, 96)
