import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN

from rlkd.models.create import create
from rlkd.models.detection.detectors import create_detector, detector_names, is_two_stage

CHEAP: dict[str, Any] = {
    "min_size": 96,
    "max_size": 160,
    "fpn_channels": 16,
    "representation_size": 32,
    "regions_per_image": 32,
}
BACKBONES = ["resnet18", "mobilenet_v2", "mobilenet_v3_large", "timm:resnet18"]


@pytest.fixture(scope="module")
def published() -> FasterRCNN:
    """Torchvision's own builder, by its own defaults but for the image's size."""
    return detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5, min_size=96, max_size=160
    ).eval()


def _skip_without_timm(name: str) -> None:
    if "timm:" in name:
        pytest.importorskip("timm", reason="timm is not installed")


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _lateral_channels(detector: FasterRCNN) -> list[int]:
    return [block[0].in_channels for block in detector.backbone.fpn.inner_blocks]


def _levels(detector: FasterRCNN) -> tuple[str, ...]:
    with torch.inference_mode():
        return tuple(detector.eval().backbone(torch.rand(1, 3, 64, 64)))


def _strides(detector: FasterRCNN, size: int = 128) -> list[float]:
    with torch.inference_mode():
        maps = detector.eval().backbone(torch.rand(1, 3, size, size))
    return [size / each.shape[-1] for each in maps.values()]


def _detected(detector: FasterRCNN, image: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return detector.eval()([image])[0]


@pytest.mark.parametrize("name", detector_names() + [f"fasterrcnn_{each}" for each in BACKBONES])
def test_a_detector_trains_on_an_image_and_detects_inside_it(name: str) -> None:
    _skip_without_timm(name)
    options = {} if name in detector_names() else CHEAP
    detector = create_detector(name, num_classes=4, **options)
    boxes = torch.tensor([[10.0, 10.0, 50.0, 50.0], [40.0, 30.0, 90.0, 80.0]])
    losses = detector([torch.rand(3, 96, 96)], [{"boxes": boxes, "labels": torch.tensor([1, 3])}])
    assert set(losses) == {
        "loss_classifier",
        "loss_box_reg",
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert all(each.grad is not None for each in detector.parameters())

    found = _detected(detector, torch.rand(3, 80, 120))
    assert len(found["boxes"]) > 0
    assert found["boxes"].min() >= 0
    assert found["boxes"][:, 0::2].max() <= 120
    assert found["boxes"][:, 1::2].max() <= 80
    assert set(found["labels"].tolist()) <= {1, 2, 3}


def test_a_resnet_pyramid_is_torchvisions_detector(published: FasterRCNN) -> None:
    detector = create_detector("fasterrcnn_resnet50", num_classes=5, min_size=96, max_size=160)
    detector.load_state_dict(published.state_dict())
    image = torch.rand(3, 100, 130)
    expected = _detected(published, image)
    found = _detected(detector, image)
    assert len(expected["boxes"]) > 0
    torch.testing.assert_close(found, expected)


def test_torchvisions_names_build_torchvisions_detector(published: FasterRCNN) -> None:
    detector = create_detector(
        "torchvision:fasterrcnn_resnet50_fpn",
        num_classes=5,
        min_size=[64, 96],
        regions_per_image=7,
        box_score_thresh=0.3,
        mean=(0.5, 0.5, 0.5),
    )
    assert _shapes(detector) == _shapes(published)
    assert detector.transform.min_size == (64, 96)
    assert detector.transform.max_size == 1333
    assert detector.transform.image_mean == [0.5, 0.5, 0.5]
    assert detector.roi_heads.fg_bg_sampler.batch_size_per_image == 7
    assert detector.roi_heads.score_thresh == 0.3


def test_a_torchvision_detector_keeps_its_own_image_size() -> None:
    # 320 and 640 are what torchvision documents for this one.
    detector = create_detector("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", num_classes=3)
    assert (detector.transform.min_size, detector.transform.max_size) == ((320,), 640)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", [64, 128, 256, 512]),
        ("mobilenet_v2", [24, 32, 96, 320]),
        ("mobilenet_v3_large", [24, 40, 112, 160]),
        ("mobilenet_v3_small", [16, 24, 48, 96]),
        ("timm:resnet18", [64, 128, 256, 512]),
    ],
)
def test_a_backbone_gives_the_last_map_of_each_stride(name: str, channels: list[int]) -> None:
    _skip_without_timm(name)
    detector = create_detector(f"fasterrcnn_{name}", num_classes=3, **CHEAP)
    assert _lateral_channels(detector) == channels
    assert _levels(detector) == ("0", "1", "2", "3", "pool")
    assert _strides(detector) == [4, 8, 16, 32, 64]
    assert detector.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert detector.roi_heads.box_roi_pool.featmap_names == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "low", "high"), [("fasterrcnn_tiny", 1e5, 1.5e5), ("fasterrcnn_small", 0.9e6, 1.1e6)]
)
def test_the_packaged_ones_are_small(name: str, low: float, high: float) -> None:
    detector = create_detector(name, num_classes=4)
    assert low < sum(each.numel() for each in detector.parameters()) < high
    assert _levels(detector) == ("0", "1", "2")
    assert _strides(detector) == [4, 8, 16]
    assert detector.transform.min_size == (96,)


def test_options_of_a_packaged_one_may_be_changed() -> None:
    detector = create_detector(
        "fasterrcnn_tiny",
        num_classes=4,
        strides=[8, 16],
        pool_level=True,
        anchor_sizes=[20, 40, 80],
        fpn_channels=8,
        rpn_post_nms_top_n_train=11,
    )
    assert _levels(detector) == ("0", "1", "pool")
    assert _strides(detector) == [8, 16, 32]
    assert detector.rpn.anchor_generator.sizes == ((20,), (40,), (80,))
    assert detector.rpn._post_nms_top_n["training"] == 11
    assert detector.backbone.out_channels == 8
    assert len(_detected(detector, torch.rand(3, 96, 96))["boxes"]) > 0


def test_detections_do_not_depend_on_the_image_that_came_first() -> None:
    one = create_detector("fasterrcnn_tiny", num_classes=4, min_size=40, max_size=96)
    other = create_detector("fasterrcnn_tiny", num_classes=4, min_size=40, max_size=96)
    other.load_state_dict(one.state_dict())
    # 40 pixels are padded to 64, from which torchvision would take the finest stride for 2.
    _detected(other, torch.rand(3, 40, 40))
    image = torch.rand(3, 96, 40)
    torch.testing.assert_close(_detected(other, image), _detected(one, image), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "timm:mobilenetv3_small_050"])
def test_frozen_norms_detect_alike_and_hold_still(name: str) -> None:
    _skip_without_timm(name)
    torch.manual_seed(1)
    learning = create_detector(f"fasterrcnn_{name}", num_classes=3, **CHEAP)
    torch.manual_seed(1)
    frozen = create_detector(f"fasterrcnn_{name}", num_classes=3, frozen_norms=True, **CHEAP)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in frozen.modules())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = learning.eval().backbone(image)
        torch.testing.assert_close(frozen.train().backbone(image), expected)


def test_frozen_levels_hold_the_weights_before_them_alone() -> None:
    detector = create_detector("fasterrcnn_resnet18", num_classes=3, frozen_levels=2, **CHEAP)
    held = {name for name, each in detector.named_parameters() if not each.requires_grad}
    prefix = re.compile(r"backbone\.body\.(conv1|bn1|layer1|layer2)\.")
    assert held == {name for name, _ in detector.named_parameters() if prefix.match(name)}
    assert held


def test_a_classifier_is_no_two_stage_detector() -> None:
    assert not is_two_stage(create("resnet8", num_classes=3))
    detector = create_detector("fasterrcnn_tiny", num_classes=3)
    assert is_two_stage(detector)
    assert detector.training
    assert all(each.training for each in detector.modules())
    detector.roi_heads.box_head = None
    assert not is_two_stage(detector)
