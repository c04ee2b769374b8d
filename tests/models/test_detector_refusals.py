from typing import Any

import pytest

from rlkd.errors import UserError
from rlkd.models.detection.detectors import create_detector

MODULE = """
from torch import nn
from torchvision.models import detection
from rlkd.models.detection.detectors import create_detector

def good(num_classes, channels=16):
    return create_detector("fasterrcnn_tiny", num_classes=num_classes, fpn_channels=channels)

def too_few_classes(num_classes):
    return good(num_classes - 1)

def classifier(num_classes):
    return nn.Linear(3, num_classes)

def logits_alone(num_classes):
    detector = good(num_classes)
    detector.roi_heads.box_predictor = nn.Linear(64, num_classes)
    return detector

def with_masks(num_classes):
    detector = good(num_classes)
    detector.roi_heads.mask_roi_pool = detector.roi_heads.box_roi_pool
    detector.roi_heads.mask_head = nn.Identity()
    detector.roi_heads.mask_predictor = nn.Identity()
    return detector
"""


@pytest.fixture
def own_module(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_detectors.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_detectors"


def _refusal(name: str, *, num_classes: int = 5, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        create_detector(name, num_classes=num_classes, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _skip_without_timm(name: str) -> None:
    if "timm:" in name:
        pytest.importorskip("timm", reason="timm is not installed")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("fasterrcnn_resnet19", "fasterrcnn_resnet18"),
        ("fasterrcnn_mobilenetv2", "fasterrcnn_mobilenet_v2"),
        ("FasterRCNN_tiny", "fasterrcnn_tiny"),
        ("torchvision:fasterrcnn_resnet51_fpn", "torchvision:fasterrcnn_resnet50_fpn"),
        ("fasterrcnn_timm:resnet19", "fasterrcnn_timm:resnet18"),
        ("own_detectors:god", "own_detectors:good"),
    ],
)
@pytest.mark.usefixtures("own_module")
def test_an_unknown_name_is_answered_with_the_nearest_and_the_forms(
    name: str, nearest: str
) -> None:
    _skip_without_timm(name)
    message = _refusal(name)
    assert f"model '{name}' is unknown; did you mean '{nearest}'" in message
    assert "fasterrcnn_BACKBONE" in message


def test_a_classifier_is_answered_with_its_detector() -> None:
    assert "'fasterrcnn_resnet50'" in _refusal("resnet50")


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16"])
def test_one_stage_detectors_are_refused(name: str) -> None:
    assert "only two-stage detectors" in _refusal(f"torchvision:{name}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("shufflenet_v2_x0_5", "not a chain of blocks"),
        ("squeezenet1_0", "there are none"),
        ("timm:vit_tiny_patch16_224", "two strides or more"),
    ],
)
def test_a_backbone_that_gives_no_pyramid_is_refused(name: str, told: str) -> None:
    _skip_without_timm(name)
    assert told in _refusal(f"fasterrcnn_{name}")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"anchor_sizes": [32, 64]}, "one for each of its 3 levels"),
        ({"strides": [4, 32]}, "no map of stride 32; choose strides of 2, 4, 8, 16"),
        ({"strides": [4, 16]}, "a pyramid needs"),
        ({"strides": [16]}, "a pyramid needs"),
        ({"frozen_levels": 4}, "its body has 3 levels"),
        ({"frozen_levels": -1}, "frozen_levels=-1"),
        ({"mean": [0.5]}, "mean has 1 numbers"),
        ({"min_size": 0}, "min_size=0"),
        ({"min_size": []}, "min_size=[]"),
        ({"regions_per_image": 0}, "regions_per_image=0"),
        ({"box_score_tresh": 0.1}, "did you mean 'box_score_thresh'?"),
        ({"num_classes": 1}, "counts the background"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], told: str) -> None:
    assert told in _refusal("fasterrcnn_tiny", **options)


def test_an_option_that_torchvision_would_swallow_is_refused() -> None:
    message = _refusal("torchvision:fasterrcnn_resnet50_fpn", fpn_channels=16)
    assert "no option 'fpn_channels'" in message


def test_a_factory_is_called_with_the_class_count_and_the_options(own_module: str) -> None:
    detector = create_detector(f"{own_module}:good", num_classes=6, channels=8)
    assert detector.backbone.out_channels == 8
    assert detector.roi_heads.box_predictor.cls_score.out_features == 6


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("classifier", "only two-stage detectors"),
        ("logits_alone", "only two-stage detectors"),
        ("too_few_classes", "has 4 classes, the data 5"),
        ("with_masks", "masks or keypoints"),
    ],
)
def test_a_factory_that_returns_another_thing_is_refused(
    own_module: str, factory: str, told: str
) -> None:
    assert told in _refusal(f"{own_module}:{factory}")
