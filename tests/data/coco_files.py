"""Tiny COCO files for the tests: images of noise, and annotations that a test may spoil."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rlkd.data.detection.coco import read_coco
from rlkd.data.detection.coco_set import CocoSet

CONTENT: dict[str, Any] = {
    "images": [
        {"id": 30, "file_name": "c.png", "height": 20, "width": 40},
        {"id": 10, "file_name": "inner/a.png", "height": 40, "width": 20},
        {"id": 20, "file_name": "b.png", "height": 30, "width": 30},
    ],
    "annotations": [
        {"id": 5, "image_id": 10, "category_id": 9, "bbox": [1.5, 2, 3, 4], "area": 7.5},
        {"id": 3, "image_id": 30, "category_id": 2, "bbox": [30, 10, 20, 5.25], "iscrowd": 0},
        {"id": 9, "image_id": 10, "category_id": 2, "bbox": [0, 0, 20, 40], "iscrowd": 1},
        {"id": 4, "image_id": 10, "category_id": 4, "bbox": [-2, 5, 10, 50]},
    ],
    "categories": [{"id": 9, "name": "i"}, {"id": 2, "name": "b"}, {"id": 4, "name": "d"}],
}
"""Three images, one of them empty; categories with gaps; a crowd; boxes that stick out."""


def content() -> dict[str, Any]:
    return copy.deepcopy(CONTENT)


def noise(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def write(folder: Path, given: dict[str, Any] | None = None) -> Path:
    """Write the images and an annotation file, and return the latter."""
    for image in CONTENT["images"]:
        file = folder / "images" / image["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise(image["height"], image["width"]).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file)
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(CONTENT if given is None else given))
    return annotations


def read(folder: Path, given: dict[str, Any] | None = None, *, keep_ids: bool = False) -> CocoSet:
    return read_coco(folder / "images", write(folder, given), keep_ids=keep_ids)
