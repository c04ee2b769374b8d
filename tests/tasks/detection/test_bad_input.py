"""What does not fit a detection run: one line, exit code 2, nothing written."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from tests.marks import but_long
from tests.support.detection_runs import (
    RUNS,
    SHAPES,
    SHORT,
    tiny_detection,
    without_shapes,
    write_own,
)
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import fingerprint

from rlkd import models
from rlkd.cli import main
from rlkd.config.compose import configure
from rlkd.engine import build
from rlkd.errors import Notice, UserError
from rlkd.models import create_detector, save_weights
from rlkd.tasks.detection.data import detection_sets
from rlkd.tasks.detection.options import DetectionOptions

pytestmark = pytest.mark.usefixtures("plainly")

RLKD = RUNS["rlkd"]
OPTIONS: list[tuple[str, object, str]] = [
    ("performance", "f1", "task.performance=f1: choose one of foreground, loss"),
    ("student_pretrained", "voc", "choose imagenet .the backbone., coco .* or null"),
    ("teacher_pretrained", "voc", "task.teacher_pretrained=voc: choose imagenet"),
    ("group_by_aspect", "maybe", "task.group_by_aspect='maybe': give true or false"),
    ("group_by_aspect", 3, "task.group_by_aspect=3: give true or false"),
    ("flip", "left", "task.flip='left': give true or false"),
    ("workers", -1, "task.workers=-1: give a whole number of at least 0"),
    ("workers", "two", "task.workers='two': give a whole number of at least 0"),
    ("detector", "large", "task.detector=large: give its settings"),
    ("detector", {"min_size": "big"}, "task.detector.min_size=big: give a whole number, or sever"),
    ("detector", {"max_size": [64]}, r"task.detector.max_size=\[64\]: give a whole number; null"),
    ("detector", {"fpn_channels": 1.5}, "task.detector.fpn_channels=1.5: give a whole number"),
    ("detector", {"anchor_sizes": ["a"]}, r"task.detector.anchor_sizes=\['a'\]: give a whole numb"),
]


@pytest.mark.parametrize(("name", "value", "told"), OPTIONS)
def test_an_option_of_a_wrong_type_is_refused(name: str, value: object, told: str) -> None:
    packaged = build.task(configure(["task=detection"]))
    assert isinstance(packaged, DetectionOptions)
    with pytest.raises(UserError, match=told):
        replace(packaged, **{name: value})  # pyright: ignore[reportArgumentType]


IMPOSSIBLE = {
    "task.mix=mixup": "no setting task.mix",
    "task.label_smoothing=0.1": "no setting task.label_smoothing",
    "teacher.also=[{checkpoint: a}]": "teacher.also is for task=classification: leave it at null",
    "task.scales=[0.8,1.2]": "task.scales",
    "task.performance=f1": "task.performance=f1: choose one of foreground, loss",
    "task.student_pretrained=coco": "student: model 'fasterrcnn_tiny' has no published weights of",
    "task.student_pretrained=imagenet": "student: model 'fasterrcnn_tiny' has no published weights",
    "task.detector.min_size=0": "tiny': min_size=0, max_size=160; give pixels, 1 or more",
    "task.detector.anchor_sizes=[8]": r"anchor_sizes=\[8\]; give one for each of its 3 levels",
    "task.detector.regions_per_image=0": "regions_per_image=0: give a whole number of at least 1",
    "+task.detector.min_sizes=64": "has no option 'min_sizes'; did you mean 'min_size'",
    "task.max_instances=0": "max_instances=0: give",
    "probe.size=16": "probe.size=16: 16 training images can be held out; give 0 to 15",
    "probe.size=-1": "probe.size=-1: give a whole number of at least 0",
    "trainer.validation_size=16": "validation_size=16: 16 training images can be held out; give 0",
    "student=resnet20": "student: model 'resnet20' is unknown.* 'fasterrcnn_BACKBONE'",
    "teacher=resnet20": "teacher: model 'resnet20' is unknown.* 'fasterrcnn_BACKBONE'",
    "student=torchvision:resnet18": "'torchvision:resnet18' is unknown; did you mean 'torchvi",
    "student=torchvision:retinanet_resnet50_fpn": "only two-stage detectors that give boxes",
    "student=timm.models:create_model": "student: model 'timm.models:create_model' is no factory",
    "student=tests.support.runs:DroppingStudent": "add trust=tests$",
    "student=fasterrcnn_resnt18": "student=fasterrcnn_resnt18: did you mean fasterrcnn_resnet18",
    "student=fasterrcnn_tinny": "student=fasterrcnn_tinny: did you mean fasterrcnn_tiny",
    "student=custom": "student.name is missing",
    "teacher=none": "this method needs a teacher: give teacher=",
    "data.size=8": "data.size=8: give a whole number of at least 48",
    "task=detecton": "task=detecton: did you mean detection",
    "method=crd": "loss crd needs",
    "method=fitnet": "loss fitnet: layers=stage2: a detector has",
}


@pytest.mark.parametrize("setting", but_long(IMPOSSIBLE, *list(IMPOSSIBLE)[::2]))
def test_an_impossible_setting_is_refused(
    setting: str, refuse: Refuse, detector_file: Path, tmp_path: Path
) -> None:
    settings = tiny_detection(detector_file, tmp_path / "run", *RLKD, setting)
    if setting.startswith("student="):
        settings = [each for each in settings if not each.startswith("student.checkpoint")]
    assert_told(refuse("distill", *settings), IMPOSSIBLE[setting])


def test_performance_by_loss_is_measured_on_a_probe(
    refuse: Refuse, detector_file: Path, tmp_path: Path
) -> None:
    more = ("task.performance=loss", "temperature.reward_source=next_batch")
    told = refuse("distill", *tiny_detection(detector_file, tmp_path / "run", *RLKD, *more))
    assert_told(told, "task.performance=loss is measured on a probe.* give temperature.reward_sou")


def test_each_task_names_the_other_where_the_data_are_its(
    refuse: Refuse, detector_file: Path, tmp_path: Path
) -> None:
    settings = without_shapes(tiny_detection(detector_file, tmp_path / "run", *RLKD))
    told = refuse("distill", *settings, "data=digits")
    assert_told(told, "data=digits has no objects in boxes: task=detection needs data=coco")
    own = write_own(tmp_path / "own")
    given = ["data=coco", f"data.root={own}", "method=alone", "teacher=none"]
    told = refuse("distill", *given, "temperature=constant", f"output={tmp_path / 'run'}")
    assert_told(told, "data=coco has no label for each image: .*task=detection")
    assert_told(refuse("distill", *settings, "data=coco"), "data.root is missing: give data.root")


def test_a_checkpoint_of_other_classes_names_both_counts(
    refuse: Refuse, detector_file: Path, tmp_path: Path
) -> None:
    def told(classes: int, *more: str) -> str:
        made = create_detector("fasterrcnn_tiny", num_classes=classes)
        save_weights(made, tmp_path / "other.safetensors")
        given = f"teacher.checkpoint={tmp_path / 'other.safetensors'}"
        settings = tiny_detection(detector_file, tmp_path / "run", "temperature=constant", given)
        return refuse("distill", *settings, *more)

    few = told(4)
    assert_told(few, "teacher: .*other.safetensors: checkpoint has 4 classes, the data 6; give a")
    assert "the background counts" in few
    assert "keep_ids" not in few
    assert_told(told(91), "checkpoint has 91 classes, the data 6.*data.keep_ids=true numbers class")
    save_weights(
        models.create("convnet_tiny", num_classes=6, in_channels=3), tmp_path / "c.safetensors"
    )
    given = f"teacher.checkpoint={tmp_path / 'c.safetensors'}"
    settings = tiny_detection(detector_file, tmp_path / "run", "temperature=constant", given)
    assert_told(refuse("distill", *settings), "c.safetensors: another architecture than this Fast")


def test_a_student_of_other_classes_may_get_a_new_head(
    refuse: Refuse, detector_file: Path, tmp_path: Path
) -> None:
    other = create_detector("fasterrcnn_tiny", num_classes=4)
    save_weights(other, tmp_path / "other.safetensors")
    given = ("temperature=constant", f"student.checkpoint={tmp_path / 'other.safetensors'}")
    settings = tiny_detection(detector_file, tmp_path / "run", *given)
    assert_told(refuse("distill", *settings), "student: .*; student.head=new takes all but the cla")
    config = configure([*settings, "student.head=new"])
    images = detection_sets(config).test
    with pytest.warns(Notice, match=r"roi_heads\.box_predictor\.cls_score\.weight.* are new"):
        made = build.task(config).network(config.student, "student", images)  # pyright: ignore
    state = made.state_dict()
    kept = {k: v for k, v in other.state_dict().items() if "box_predictor" not in k}
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    settings = tiny_detection(detector_file, tmp_path / "run", "temperature=constant")
    told = refuse("distill", *settings, "teacher.classes=[1,2]")
    assert_told(told, "teacher.classes is for task=classification: leave it at null")


def test_a_teacher_without_weights_teaches_nothing(
    refuse: Refuse, detector_file: Path, tmp_path: Path
) -> None:
    settings = tiny_detection(detector_file, tmp_path / "run", *RLKD, "teacher.checkpoint=null")
    assert_told(refuse("distill", *settings), "the teacher fasterrcnn_tiny has no weights: give")


def test_evaluate_needs_a_checkpoint(refuse: Refuse) -> None:
    assert_told(refuse("evaluate", "task=detection", *SHAPES), "nothing to evaluate: give teacher")


def test_a_missing_scorer_is_told_before_training(
    refuse: Refuse, detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    told = refuse("distill", *tiny_detection(detector_file, tmp_path / "run", *RLKD))
    assert_told(told, r"needs pycocotools, which is not installed: pip install pycocotools")


Spoil = Callable[[Path], None]


def _no_objects(part: str) -> Spoil:
    def spoil(root: Path) -> None:
        file = root / "annotations" / f"instances_{part}2017.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "annotations": []}))

    return spoil


def _crowds_alone(root: Path) -> None:
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    for each in content["annotations"]:
        each["iscrowd"] = 1
    file.write_text(json.dumps(content))


def _other_categories(root: Path) -> None:
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "globe"
    file.write_text(json.dumps(content))


def _no_coco(root: Path) -> None:
    (root / "annotations" / "instances_train2017.json").write_text('{"labels": []}')


def _no_image(root: Path) -> None:
    (root / "train2017" / "000003.png").unlink()


SPOILT: dict[str, tuple[Spoil, str]] = {
    "no objects": (_no_objects("train"), "none of the 16 training images has an object: give an"),
    "nothing to find": (_no_objects("val"), "none of the 6 test images has an object: give annot"),
    "crowds alone": (_crowds_alone, "none of the 6 test images has an object"),
    "other categories": (_other_categories, "category .* with the id 3 is in the .* annotations"),
    "no COCO": (_no_coco, "instances_train2017.json"),
    "a missing image": (_no_image, "000003.png"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_folder_is_refused(
    name: str, refuse: Refuse, detector_file: Path, tmp_path: Path
) -> None:
    own = write_own(tmp_path / "own")
    spoil, expected = SPOILT[name]
    spoil(own)
    settings = without_shapes(tiny_detection(detector_file, tmp_path / "run", *RLKD))
    assert_told(refuse("distill", *settings, "data=coco", f"data.root={own}"), expected)
    assert not (tmp_path / "run").exists()


def test_a_test_set_without_objects_is_not_scored(
    refuse: Refuse, detector_file: Path, tmp_path: Path
) -> None:
    own = write_own(tmp_path / "own")
    _no_objects("val")(own)
    settings = without_shapes(tiny_detection(detector_file, tmp_path / "run"))
    told = refuse("evaluate", *settings, "data=coco", f"data.root={own}")
    assert_told(told, "none of the 6 test images has an object")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named_though_it_is_decoded_while_training(
    workers: int, detector_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_own(tmp_path / "own")
    for row in range(3, 9):
        corrupt = own / "train2017" / f"{row:06}.png"
        corrupt.write_bytes(corrupt.read_bytes()[:60])
    settings = without_shapes(tiny_detection(detector_file, tmp_path / "run", *RUNS["constant"]))
    more = ("data=coco", f"data.root={own}", f"task.workers={workers}")
    assert main(["distill", *settings, *more]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert_told(told[0], r"train2017/00000[3-8].png cannot be decoded .*: replace or remove it")


def test_a_finished_run_is_not_repeated_and_another_leaves_it_alone(
    detector_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_detection(detector_file, tmp_path / "run", *RUNS["constant"])
    assert main(["distill", *settings]) == 0
    before = fingerprint(tmp_path)
    assert main(["distill", *settings]) == 0
    assert "is complete already" in capsys.readouterr().out
    assert main(["distill", *settings, "task.detector.max_size=100"]) == 2
    assert "run already holds a different run" in capsys.readouterr().err
    assert fingerprint(tmp_path) == before


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(
    detector_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_detection(detector_file, tmp_path / "run", *RLKD, "optimizer.lr=1e6")
    assert main(["distill", *settings]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert_told(told[0], "not finite .*: try a lower optimizer.lr")


def test_published_weights_are_scored_without_a_checkpoint_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    torch.manual_seed(0)
    weights = create_detector(f"torchvision:{name}", num_classes=91).state_dict()

    def load(*_: object, **__: object) -> dict[str, torch.Tensor]:
        return weights

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    own = write_own(tmp_path / "own")
    assert max(COCO(str(own / "annotations" / "instances_val2017.json")).getCatIds()) == 90
    given = ["task=detection", "data=coco", f"data.root={own}", "trainer.accelerator=cpu"]
    published = [f"teacher=torchvision:{name}", "task.teacher_pretrained=coco", *SHORT[2:3]]
    capsys.readouterr()
    assert main(["evaluate", *given, *published]) == 2
    assert "weights are of 91 classes" in capsys.readouterr().err
    assert main(["evaluate", *given, *published, "data.keep_ids=true"]) == 0
    assert capsys.readouterr().out.startswith(f"teacher torchvision:{name}: AP ")
