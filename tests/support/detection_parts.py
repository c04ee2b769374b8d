"""Detectors and scenes small enough for a test."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.detection.loader import DetectionLoader
from rlkd.data.detection.shapes import shapes
from rlkd.models import create_detector
from rlkd.types import Boxes, DetectionBatch

CLASSES = 6
"""Five kinds of shapes, and the background."""


@cache
def scenes() -> CocoSet:
    return shapes(train=8, test=1, size=64).train


def batch_of(*rows: int) -> DetectionBatch:
    """Return scenes as a loader gives them; a batch of batches is never shared."""
    chosen = scenes().select(torch.tensor(rows))
    given = next(iter(DetectionLoader(chosen, batch_size=len(rows), shuffle=False)))
    return DetectionBatch(given.image, given.boxes, torch.tensor(rows))


def emptied(batch: DetectionBatch, *places: int) -> DetectionBatch:
    """Take the objects out of some images of a batch."""
    nothing = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    boxes = tuple(nothing if i in places else each for i, each in enumerate(batch.boxes))
    return DetectionBatch(batch.image, boxes, batch.index)


def make_detector(seed: int = 0, **options: Any) -> FasterRCNN:
    """Make a tiny detector whose logits differ from region to region."""
    small: dict[str, Any] = {"min_size": 64, "max_size": 96, "regions_per_image": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = create_detector("fasterrcnn_tiny", **({"num_classes": CLASSES} | small | options))
        predictor: Any = made.roi_heads.box_predictor
        predictor.cls_score.weight.data *= 10
    return made


def as_torchvision_wants(boxes: Sequence[Boxes]) -> list[dict[str, Tensor]]:
    return [{"boxes": each.box.clone(), "labels": each.label.clone()} for each in boxes]


def everything_of(detector: FasterRCNN) -> dict[str, Any]:
    """Return all that scoring must leave alone: weights, statistics, gradients, modes, draws."""
    return {
        "state": {name: each.clone() for name, each in detector.state_dict().items()},
        "gradients": [
            None if each.grad is None else each.grad.clone() for each in detector.parameters()
        ],
        "modes": [
            (each.training, getattr(each, "track_running_stats", None))
            for each in detector.modules()
        ],
        "generator": torch.random.get_rng_state(),
        "gradients on": torch.is_grad_enabled(),
    }


def same(one: Any, other: Any) -> bool:
    """Compare nested values exactly."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
