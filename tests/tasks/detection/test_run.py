"""What a detection run leaves behind, and that others' own means come to the same scores."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import load_file
from tests.support.detection_runs import (
    OWN_CLASSES,
    RUNS,
    as_coco,
    by_pycocotools,
    tiny_detection,
    tiny_test_set,
    without_shapes,
    write_own,
)
from tests.support.runs import metrics_but_time, silent
from torchvision.transforms.functional import to_tensor

from rlkd.cli import main
from rlkd.commands import compare as comparing
from rlkd.config.compose import configure
from rlkd.data.detection.coco import coco
from rlkd.engine import run as running
from rlkd.engine.run import distill, score_checkpoints
from rlkd.engine.run_folder import RunFolder
from rlkd.models import create_detector
from rlkd.reporting import DetectionScores, Result
from rlkd.sweep import runs
from rlkd.tasks.detection.evaluate import detect
from rlkd.text_files import read_object

pytestmark = pytest.mark.usefixtures("plainly")

Command = Callable[..., list[str]]
SIX = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that succeeds and prints no error; return the lines that it prints."""

    def command(*arguments: str) -> list[str]:
        code = main(arguments)
        out, told = capsys.readouterr()
        assert (code, told) == (0, "")
        return out.splitlines()

    return command


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_own(tmp_path / "own")


def figures(scores: Any) -> list[float]:
    """The six precisions as pycocotools tells them, which says -1 where there is nothing."""
    assert isinstance(scores, DetectionScores)
    held = [getattr(scores, each) for each in SIX]
    return [-1.0 if math.isnan(each) else each for each in held]


@pytest.mark.parametrize(
    "name",
    ["rlkd", *(pytest.param(each, marks=pytest.mark.long) for each in RUNS if each != "rlkd")],
)
def test_a_run_leaves_its_folder_complete_and_its_detections_score_as_it_says(
    name: str, detector_file: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    distill(tiny_detection(detector_file, folder.path, *RUNS[name]), console=silent())
    names = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*.*")}
    policy = {"policy.json"} & names
    steps = 3 if name in ("rlkd", "dkd") else 4  # an epoch; those hold images out
    assert {each for each in names if not each.startswith("tensorboard")} - policy == {
        *(f"checkpoints/step-{steps}.ckpt", f"checkpoints/step-{2 * steps}.ckpt"),
        "class_names.json",
        "config.yaml",
        "detections.json",
        "images.json",
        "metrics.csv",
        "predictions.html",
        "report.html",
        "result.json",
        "student.safetensors",
    }
    result = Result.read(folder.result)
    assert isinstance(result.test, DetectionScores)
    assert result.test.ap > 0
    assert isinstance(result.teacher, DetectionScores)
    assert (result.validation is not None) == (name == "dkd")
    rows = metrics_but_time(folder.metrics)
    assert [float(row["test/ap"]) for row in rows][1] == result.test.ap
    assert all(math.isfinite(float(row["train/loss"])) for row in rows)
    test = tiny_test_set()
    names_kept = read_object(folder.path / "class_names.json", "")
    assert names_kept == {"class_names": ["background", *test.class_names]}
    found = by_pycocotools(as_coco(test), folder.path / "detections.json")
    assert found == pytest.approx(figures(result.test), abs=1e-6)
    page = (folder.path / "predictions.html").read_text()
    assert page.count("data:image/") == len(test)
    student = create_detector("fasterrcnn_tiny", num_classes=6, min_size=64)
    student.load_state_dict(load_file(folder.student))
    again = detect(student, test, device="cpu")
    assert again == json.loads((folder.path / "detections.json").read_text())


def test_the_agent_learns_on_regions_and_its_temperatures_differ(
    detector_file: Path, tmp_path: Path
) -> None:
    # Rewards are measured on a probe that a student of nothing would score 0 on, always.
    settings = tiny_detection(detector_file, tmp_path / "run", *RUNS["rlkd"])
    distill(settings, console=silent())
    warming, learning = metrics_but_time(tmp_path / "run" / "metrics.csv")
    assert (warming["temperature/std"], float(learning["temperature/std"]) > 0) == ("0", True)
    assert learning["agent/updater_loss"]
    assert learning["agent/corrector_loss"]


@pytest.mark.long
def test_evaluate_agrees_with_a_plain_script_of_torchvision_and_pycocotools(
    command: Command, detector_file: Path, own: Path
) -> None:
    given = ["task=detection", "data=coco", f"data.root={own}", "trainer.accelerator=cpu"]
    detector = ("student=fasterrcnn_tiny", "task.detector.min_size=64")
    scored = score_checkpoints(
        [*given, *detector, f"student.checkpoint={detector_file}"], console=silent()
    )

    network = create_detector("fasterrcnn_tiny", num_classes=6, min_size=64).eval()
    network.load_state_dict(load_file(detector_file))
    truth, results = COCO(str(own / "annotations" / "instances_val2017.json")), list[Any]()
    categories = sorted(truth.getCatIds())
    for each in truth.loadImgs(truth.getImgIds()):
        image = to_tensor(Image.open(own / "val2017" / each["file_name"]).convert("RGB"))
        with torch.no_grad():
            (found,) = network([image])
        for box, label, score in zip(*(found[key].tolist() for key in found), strict=True):
            x1, y1, x2, y2 = box
            of_box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": categories[label - 1]}
            results.append({"image_id": each["id"], "score": score, **of_box})
    expected = by_pycocotools(truth, results)
    assert figures(scored["student"]) == pytest.approx(expected, abs=1e-6)
    assert expected[0] > 0.001


def test_what_is_found_does_not_depend_on_the_images_of_a_batch(
    detector_file: Path, own: Path
) -> None:
    network = create_detector("fasterrcnn_tiny", num_classes=6, min_size=64)
    network.load_state_dict(load_file(detector_file))
    sets = coco(own).train, coco(own).test, tiny_test_set()
    for images in sets:
        alone, together = (detect(network, images, device="cpu", batch_size=n) for n in (1, 6))
        assert [each["image_id"] for each in alone] == [each["image_id"] for each in together]
        for one, other in zip(alone, together, strict=True):
            assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_evaluate_gives_a_runs_own_scores(
    command: Command, detector_file: Path, tmp_path: Path
) -> None:
    settings = tiny_detection(detector_file, tmp_path / "run", *RUNS["constant"])
    result = distill(settings, console=silent())
    kept = [each for each in settings if not each.startswith("student.checkpoint")]
    weights = f"student.checkpoint={tmp_path / 'run' / 'student.safetensors'}"
    scored = score_checkpoints([*kept, weights], console=silent())
    assert figures(scored["student"]) == figures(result.test)
    assert figures(scored["teacher"]) == figures(result.teacher)
    assert isinstance(result.test, DetectionScores)
    (teacher, student, *tables) = command("evaluate", *kept, weights)
    assert teacher.startswith("teacher fasterrcnn_tiny: AP ")
    assert student.startswith(f"student fasterrcnn_tiny: AP {100 * result.test.ap:.2f}")
    assert student.endswith("on 6 test images")
    assert any("AP medium, %" in line for line in tables)
    assert any(name in line for name in result.test.per_class for line in tables)


@pytest.mark.long
def test_a_folder_of_ones_own_images_needs_two_options(
    command: Command, detector_file: Path, own: Path, tmp_path: Path
) -> None:
    settings = without_shapes(tiny_detection(detector_file, tmp_path / "run", *RUNS["rlkd"]))
    printed = command("distill", *settings, "data=coco", f"data.root={own}")
    result = Result.read(tmp_path / "run" / "result.json").test
    assert f"test AP {100 * result.headline:.2f} % (epoch 2, the last)" in printed[-2]
    assert isinstance(result, DetectionScores)
    assert list(result.per_class) == list(OWN_CLASSES.values())
    file = tmp_path / "run" / "detections.json"
    assert {each["category_id"] for each in json.loads(file.read_text())} <= set(OWN_CLASSES)
    truth = COCO(str(own / "annotations" / "instances_val2017.json"))
    assert by_pycocotools(truth, file) == pytest.approx(figures(result), abs=1e-6)
    assert "sea star" in (tmp_path / "run" / "predictions.html").read_text()


@pytest.mark.long
def test_two_temperatures_are_compared_by_average_precision(
    command: Command, detector_file: Path, tmp_path: Path
) -> None:
    settings = tiny_detection(detector_file, tmp_path / "out", "trainer.epochs=1")
    printed = command("compare", *settings, "temperature=constant,random", "seed=0,1")
    assert any("AP, %" in line for line in printed)
    assert "top-1" not in "".join(printed)
    folder = tmp_path / "out"
    assert {each.name for each in folder.iterdir() if each.is_file()} == {
        "compare.csv",
        "compare.html",
        "compare.md",
        "runs.csv",
    }
    with (folder / "runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert [(row["temperature"], row["seed"], row["state"]) for row in runs] == [
        ("constant", "0", "done"),
        ("constant", "1", "done"),
        ("random", "0", "done"),
        ("random", "1", "done"),
    ]
    assert "paired by seed" in (folder / "compare.md").read_text()


def test_a_comparison_of_two_backbones_has_a_folder_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(config: Any, **_: object) -> Any:
        asked.append(config.student.name)
        raise KeyboardInterrupt if len(asked) == 2 else RuntimeError("not run in this test")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "run", note)
    monkeypatch.setattr(runs, "_require_trainable", lambda *_: None)
    students = "student=fasterrcnn_resnet18,fasterrcnn_resnet34"
    with pytest.raises(KeyboardInterrupt):
        comparing.compare(["task=detection", students, "seed=0"], console=silent())
    assert asked == ["fasterrcnn_resnet18", "fasterrcnn_resnet34"]


@pytest.mark.parametrize(
    "name",
    ["fasterrcnn_resnet18", "fasterrcnn_resnet34", "fasterrcnn_mobilenet_v2", "fasterrcnn_vgg11"],
)
def test_a_detector_over_any_backbone_is_a_name_on_the_command_line(name: str) -> None:
    config = configure(["task=detection", f"student={name}", f"teacher={name}"])
    assert config.student.name == config.teacher.name == name
    assert config.output == f"runs/shapes_{name}_{name}_kd_rlkd_seed0"
    assert config.student.checkpoint is None


@pytest.mark.long
def test_a_detector_over_a_backbone_that_is_not_listed_trains(tmp_path: Path) -> None:
    settings = tiny_detection(tmp_path, tmp_path / "run", "student=fasterrcnn_mobilenet_v3_small")
    kept = [each for each in settings if "checkpoint" not in each and "epochs" not in each]
    small = ("task.detector.fpn_channels=8", "task.detector.representation_size=8")
    alone = ("method=alone", "teacher=none", "temperature=constant", "trainer.epochs=1")
    kept = [each for each in kept if not each.startswith("teacher")]
    assert distill([*kept, *small, *alone], console=silent()).teacher is None


def test_the_verbs_know_detection(command: Command) -> None:
    assert "detection" in command("ls", "task")[0]
    assert {"coco", "shapes"} <= set(command("ls", "data")[0].split(": ")[1].split(", "))
    for role in ("student", "teacher"):
        listed = command("ls", role)[0].split(": ")[1].split(", ")
        assert {"fasterrcnn_tiny", "fasterrcnn_small", "fasterrcnn_resnet101"} <= set(listed)
    shown = command("show", "task=detection")
    assert "  name: fasterrcnn_tiny" in shown
    assert "  _target_: rlkd.data.detection.shapes.shapes" in shown
