"""`rlkd predict`: what a run's student, or a checkpoint's, says of somebody's images."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tests.support.refusal import Refuse, assert_told
from tests.support.run_folders import DIGITS, SHAPES, classifier_run, detector_run
from torch import Tensor

from rlkd import models
from rlkd.cli import main
from rlkd.config.compose import configure
from rlkd.data import digits as handwritten
from rlkd.data.detection.shapes import shapes
from rlkd.engine import build
from rlkd.models import create_detector
from rlkd.tasks.prediction_folder import claim
from rlkd.text_files import read_object

pytestmark = pytest.mark.usefixtures("plainly")


def predict(*words: str | Path) -> int:
    return main(["predict", *map(str, words)])


def answers(folder: Path) -> list[dict[str, Any]]:
    return read_object(folder / "predictions.json", "")["predictions"]


def probabilities(weights: Path, image: Tensor, classes: int) -> Tensor:
    network = models.create("convnet_tiny", num_classes=classes, in_channels=image.shape[1])
    models.load_weights(network, weights)
    with torch.no_grad():
        return network.eval()(image).softmax(dim=1)


@pytest.fixture
def test_digits(tmp_path: Path) -> tuple[Path, Tensor]:
    """The first twelve test images as files, and their pixels in 0 to 255."""
    pixels = handwritten.load_digits()[1].image[:12]
    (tmp_path / "digits").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image[0].numpy()).save(tmp_path / "digits" / f"{number:02}.png")
    return tmp_path / "digits", pixels


def test_a_runs_student_says_the_likeliest_classes(
    test_digits: tuple[Path, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, pixels = test_digits
    run = classifier_run(tmp_path / "run")
    assert predict(f"run={run.path}", f"images={images}") == 0
    told = capsys.readouterr().out
    assert f"12 images: everything is in {run.path / 'predictions'}" in told
    normalised = (pixels.float() / 255 - 0.3058) / 0.3759
    expected, classes = probabilities(run.student, normalised, 10).topk(5)
    found = answers(run.path / "predictions")
    assert [each["file"] for each in found] == [f"{number:02}.png" for number in range(12)]
    assert {(each["width"], each["height"]) for each in found} == {(8, 8)}
    for one, values, rows in zip(found, expected, classes, strict=True):
        assert [each["class"] for each in one["classes"]] == [str(row) for row in rows.tolist()]
        told_values = torch.tensor([each["probability"] for each in one["classes"]])
        torch.testing.assert_close(told_values, values, rtol=1e-5, atol=1e-6)
    assert len({one["classes"][0]["class"] for one in found}) > 1
    with (run.path / "predictions" / "predictions.csv").open() as file:
        header, *lines = csv.reader(file)
    assert header[:3] == ["file", "class_1", "probability_1"]
    assert len(header) == 11
    for line, one in zip(lines, found, strict=True):
        assert line[:2] == [one["file"], one["classes"][0]["class"]]
        assert float(line[10]) == pytest.approx(one["classes"][4]["probability"], abs=1e-6)


def test_images_become_what_the_datas_own_are(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name, color in (("cat", "red"), ("dog", "blue")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 20), color).save(tmp_path / "data" / split / name / "1.png")
    settings = ("data=folder", f"data.root='{tmp_path / 'data'}'", "data.image_size=16")
    run = classifier_run(tmp_path / "run", *settings, in_channels=3, scale=1.0)
    noise = torch.randint(256, (40, 90, 3), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(noise.to(torch.uint8).numpy())
    picture.save(tmp_path / "wide.png")
    assert (
        predict(f"run={run.path}", f"images={tmp_path / 'wide.png'}", f"output={tmp_path}/o") == 0
    )
    # 40 x 90 becomes 16 x 36, of which columns 10 to 25 are the middle
    square = picture.resize((36, 16), Image.Resampling.BILINEAR).crop((10, 0, 26, 16))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    normalised = (pixels - mean[:, None, None]) / std[:, None, None]
    (expected,) = probabilities(run.student, normalised[None], 2).tolist()
    (found,) = answers(tmp_path / "o")
    assert (found["file"], found["width"], found["height"]) == ("wide.png", 90, 40)
    assert 0.01 < expected[0] < 0.99
    by_name = {each["class"]: each["probability"] for each in found["classes"]}
    assert by_name == pytest.approx(dict(zip(("cat", "dog"), expected, strict=True)), rel=1e-4)


def test_a_checkpoint_does_without_a_run_and_a_threshold_leaves_classes_out(
    test_digits: tuple[Path, Tensor], tmp_path: Path
) -> None:
    images, _ = test_digits
    weights = classifier_run(tmp_path / "run").student
    given = (*DIGITS, "student=convnet_tiny", f"student.checkpoint='{weights}'")
    assert predict(*given, f"images={images}", f"output={tmp_path / 'all'}") == 0
    assert predict(*given, f"images={images}", f"output={tmp_path / 'few'}", "threshold=0.2") == 0
    few, everything = answers(tmp_path / "few"), answers(tmp_path / "all")
    for one, other in zip(few, everything, strict=True):
        assert one["classes"] == [each for each in other["classes"] if each["probability"] >= 0.2]
    assert 0 < sum(len(each["classes"]) for each in few) < 5 * len(few)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    images = shapes(train=1, test=2).test
    (tmp_path / "scenes").mkdir()
    for row in range(2):
        pixels = images.image(row).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "scenes" / f"{row}.png")
    return tmp_path / "scenes"


def test_a_detector_writes_boxes_and_pictures(scenes: Path, tmp_path: Path) -> None:
    run = detector_run(tmp_path / "run")
    output = tmp_path / "out"
    words = (f"run={run.path}", f"images={scenes}", f"output={output}")
    assert predict(*words, "threshold=0.05") == 0
    all_found = [each["detections"] for each in answers(output)]
    assert all(all_found)
    names = shapes(train=1, test=1).train.class_names
    assert {each["class"] for found in all_found for each in found} <= set(names)
    pictures = sorted(path.name for path in (output / "pictures").iterdir())
    assert pictures == ["0.png", "1.png"]
    assert predict(*words) == 0
    for one, more in zip(answers(output), all_found, strict=True):
        assert one["detections"] == [each for each in more if each["score"] >= 0.5]


def test_imagenets_weights_are_not_fetched_only_to_be_replaced(
    scenes: Path, tmp_path: Path, refuse: Refuse
) -> None:
    # Nobody publishes weights of this backbone: to ask for them is refused.
    run = detector_run(tmp_path / "run", "task.student_pretrained=imagenet")
    given = f"student.checkpoint='{run.student}'"
    output = f"output={tmp_path / 'out'}"
    assert predict(*SHAPES, given, f"images={scenes}", output) == 0
    assert predict(f"run={run.path}", f"images={scenes}", output) == 0
    told = refuse("train", *SHAPES, given, "task.student_pretrained=imagenet")
    assert_told(told, "has no published weights")


@pytest.mark.long
def test_cocos_weights_are_not_fetched_only_to_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "torchvision:fasterrcnn_resnet50_fpn"
    trained = create_detector(name, num_classes=6, in_published_form=True)
    models.save_weights(trained, tmp_path / "student.safetensors")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", None)
    held = {"name": name, "checkpoint": str(tmp_path / "student.safetensors")}
    node = OmegaConf.create({"student": held}).student
    task: Any = build.task(configure(["task=detection", "task.student_pretrained=coco"]))
    loaded = task.network(node, "student", shapes(train=1, test=1).train, trains=False)
    published: Any = trained.backbone.body.bn1
    norm: Any = loaded.backbone.body.bn1
    assert (type(norm), norm.eps) == (type(published), 0.0)  # as torchvision's is
    for key, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "nothing to predict: give images=FILE or images=FOLDER"),
        (("images=",), "images is missing"),
        (("images=.", "threshold=2"), "threshold=2: give a number from 0 to 1"),
        (("images=.", "threshold=half"), "threshold=half: give a number"),
        (("images=.", "skip_unreadable=yes"), "skip_unreadable=yes: give true or false"),
        (("images=.", "data=digits"), "the student has no weights: give run=FOLDER"),
        (("images=.", "task=detection"), "the student has no weights: give run=FOLDER"),
        (("images=.", "run=nowhere"), r"nowhere has no config\.yaml: give run=FOLDER"),
        (
            ("images=.", "data=coco", "data.root=.", "student.checkpoint=a"),
            "data=coco has no label for each image",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], told: str, refuse: Refuse) -> None:
    assert_told(refuse("predict", *words), told)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data=coco", r"data is a section; give single settings of it, such as data\.\w+="),
        ("data.rot=DIR", r"there is no setting data\.rot"),
        ("trainer.thread=1", r"did you mean trainer\.threads\?"),
        ("seed", "seed is no setting: give KEY=VALUE"),
        ("trainer.threads=[1", "trainer.threads="),
    ],
)
def test_an_override_that_does_not_fit_the_run_is_refused(
    tmp_path: Path, override: str, told: str, refuse: Refuse
) -> None:
    run = classifier_run(tmp_path / "run")
    assert_told(refuse("predict", f"run={run.path}", "images=.", override), told)


def test_a_value_of_the_run_may_be_replaced(
    test_digits: tuple[Path, Tensor], tmp_path: Path, refuse: Refuse
) -> None:
    run = classifier_run(tmp_path / "run")
    weights = run.student.rename(tmp_path / "moved.safetensors")
    words = (f"run={run.path}", f"images={test_digits[0]}")
    assert_told(refuse("predict", *words), r"run has no student\.safetensors: let the run end, or")
    assert predict(*words, f"student.checkpoint={weights}") == 0
    (run.path / "config.yaml").write_text("a: [")
    assert_told(refuse("predict", *words), r"config\.yaml cannot be read")
    (run.path / "config.yaml").write_text("[1, 2]")
    assert_told(refuse("predict", *words), "config.yaml cannot be read: holds no settings")


def test_unreadable_images_are_named_or_left_out(
    test_digits: tuple[Path, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = test_digits
    (images / "05.png").write_bytes(b"no picture")
    run = classifier_run(tmp_path / "run")
    words = (f"run={run.path}", f"images={images}")
    assert predict(*words) == 2
    assert_told(capsys.readouterr().err, r"05\.png cannot be decoded.*skip_unreadable=true")
    begun = {"format": 1, "complete": False, "predictions": []}
    assert json.loads((run.path / "predictions" / "predictions.json").read_text()) == begun
    assert predict(*words, "skip_unreadable=true") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "11 images, 1 file that cannot be decoded left out (05.png)" in said
    assert read_object(run.path / "predictions" / "predictions.json", "")["complete"] is True
    assert len(answers(run.path / "predictions")) == 11


def test_what_kills_left_of_earlier_predictions_are_no_foreign_files(tmp_path: Path) -> None:
    output, left = tmp_path / "out", ".predictions.json.rlkd-0123456789abcdef.tmp"
    inner = output / "pictures" / "inner"
    output.mkdir()
    (output / left).write_text("half a file")
    claim(output, keys=("file",))
    inner.mkdir(parents=True)
    for folder in (output, inner.parent, inner):
        (folder / left).write_text("half a file")
    claim(output, keys=("file",))
    files = [path.name for path in output.rglob("*") if path.is_file()]
    assert files == ["predictions.json"]
