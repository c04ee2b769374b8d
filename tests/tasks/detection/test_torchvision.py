"""A detector scores inside `rlkd evaluate` as in a script of torchvision and pycocotools alone."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from tests.support.detection_runs import by_pycocotools
from tests.support.runs import silent
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.transforms.functional import to_tensor

from rlkd.engine.run import score_checkpoints
from rlkd.reporting import DetectionScores

pytestmark = [pytest.mark.usefixtures("plainly"), pytest.mark.long]

SIDES = {"min_size": 96, "max_size": 160}


def published_way() -> FasterRCNN:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    return FasterRCNN(backbone, num_classes=4, **SIDES)


def corners_as_coco(box: Tensor) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]


@torch.no_grad()
def by_torchvision(detector: FasterRCNN, truth: COCO, images: Path) -> list[dict[str, Any]]:
    """The script of somebody who knows nothing of rlkd."""
    results: list[dict[str, Any]] = []
    for image_id, entry in truth.imgs.items():
        (found,) = detector([to_tensor(Image.open(images / entry["file_name"]).convert("RGB"))])
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
            one = {"image_id": image_id, "category_id": int(label), "score": float(score)}
            results.append({**one, "bbox": corners_as_coco(box)})
    return results


def write_truth(detector: FasterRCNN, root: Path) -> Path:
    """Write images of several sizes, whose objects lie near some of what a detector finds there."""
    drawn = random.Random(0)
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images: list[dict[str, Any]] = [
        {"id": 10 + row, "file_name": f"{row}.png", "height": high, "width": wide}
        for row, (high, wide) in enumerate(((80, 120), (130, 90), (100, 100), (60, 140)))
    ]
    for row, one in enumerate(images):
        size = (one["height"], one["width"], 3)
        pixels = np.random.default_rng(row).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val2017" / one["file_name"])
    content = {
        "images": images,
        "annotations": [],
        "categories": [{"id": each, "name": f"kind {each}"} for each in (1, 2, 3)],
    }
    file = root / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(content))
    found = by_torchvision(detector, COCO(str(file)), root / "val2017")
    assert len(found) > 40
    objects: list[dict[str, Any]] = []
    for row, one in enumerate(drawn.sample(found, 24), start=1):
        box = np.asarray(one["bbox"]) * [1, 1, drawn.uniform(0.7, 1.0), drawn.uniform(0.7, 1.0)]
        objects.append(
            {
                "id": row,
                "image_id": one["image_id"],
                "category_id": one["category_id"],
                "bbox": box.tolist(),
                "area": float(box[2] * box[3]),
                "iscrowd": 0,
            }
        )
    file.write_text(json.dumps({**content, "annotations": objects}))
    return file


def test_a_teachers_precision_is_that_of_torchvisions_own_detector(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = published_way().eval()
    torch.save(detector.state_dict(), tmp_path / "teacher.pth")
    annotations = write_truth(detector, tmp_path / "own")
    truth = COCO(str(annotations))
    expected = tmp_path / "expected.json"
    expected.write_text(json.dumps(by_torchvision(detector, truth, tmp_path / "own" / "val2017")))
    scored = score_checkpoints(
        [
            *("task=detection", "data=coco", f"data.root={tmp_path / 'own'}"),
            *("teacher=fasterrcnn_resnet18", f"teacher.checkpoint={tmp_path / 'teacher.pth'}"),
            *(f"task.detector.{key}={value}" for key, value in SIDES.items()),
            "trainer.accelerator=cpu",
        ],
        console=silent(),
    )["teacher"]
    assert isinstance(scored, DetectionScores)
    found = [scored.ap, scored.ap50, scored.ap75]
    assert found == pytest.approx(by_pycocotools(truth, expected)[:3], abs=1e-6)
    assert 0.01 < scored.ap < scored.ap50 < 0.99
