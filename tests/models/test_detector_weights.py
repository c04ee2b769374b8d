from collections.abc import Callable
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection

from rlkd.errors import UserError
from rlkd.models.detection.detectors import create_detector


def _refusal(name: str, *, num_classes: int = 5, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        create_detector(name, num_classes=num_classes, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _downloads(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], Any]) -> None:
    def load(url: str, *_: Any, **__: Any) -> Any:
        return answer(url)

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", load)


def test_a_pretrained_backbone_starts_from_the_first_weights_of_imagenet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = torchvision.models.mobilenet_v2().state_dict()
    asked: list[str] = []

    def answer(url: str) -> dict[str, Tensor]:
        asked.append(url)
        return weights

    _downloads(monkeypatch, answer)
    detector = create_detector(
        "fasterrcnn_mobilenet_v2", num_classes=3, pretrained_backbone=True, representation_size=8
    )
    assert asked == [torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url]
    body = detector.backbone.body
    loaded = body.state_dict()
    assert all(torch.equal(loaded[name], weights[f"features.{name}"]) for name in loaded)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in detector.modules())
    # Stride 4, the finest level, ends with block 3.
    held = {name.split(".")[0] for name, each in body.named_parameters() if not each.requires_grad}
    learning = {name.split(".")[0] for name, each in body.named_parameters() if each.requires_grad}
    assert held == {"0", "1", "2", "3"}
    assert learning == {str(block) for block in range(4, 18)}


def test_pretrained_loads_torchvisions_weights_for_coco(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    weights = getattr(detection, name)(weights_backbone=None, num_classes=91).state_dict()
    _downloads(monkeypatch, lambda url: weights)
    detector = create_detector(f"torchvision:{name}", num_classes=91, pretrained=True)
    loaded = detector.state_dict()
    assert all(torch.equal(loaded[key], weights[key]) for key in loaded)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in detector.modules())


@pytest.mark.parametrize(
    ("name", "option", "num_classes"),
    [
        ("torchvision:fasterrcnn_resnet50_fpn", "pretrained", 91),
        ("torchvision:fasterrcnn_resnet50_fpn", "pretrained_backbone", 5),
        ("fasterrcnn_resnet18", "pretrained_backbone", 5),
    ],
)
def test_weights_that_cannot_be_had_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, option: str, num_classes: int
) -> None:
    def answer(url: str) -> None:
        raise URLError("no\nroute")

    _downloads(monkeypatch, answer)
    message = _refusal(name, num_classes=num_classes, **{option: True})
    assert "could not be loaded" in message
    assert "checkpoints" in message


def test_published_weights_for_coco_need_its_classes() -> None:
    message = _refusal("torchvision:fasterrcnn_resnet50_fpn", pretrained=True)
    assert "91 classes" in message
    assert "the data 5" in message
    assert "keep_ids" in message


@pytest.mark.parametrize("name", ["fasterrcnn_tiny", "fasterrcnn_resnet18"])
def test_no_weights_are_published_for_other_detectors(name: str) -> None:
    assert "pretrained_backbone" in _refusal(name, pretrained=True)


def test_a_packaged_backbone_has_no_published_weights() -> None:
    assert "no published weights" in _refusal("fasterrcnn_tiny", pretrained_backbone=True)
