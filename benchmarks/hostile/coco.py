"""Kind `coco`: annotation files with spoilt values, and the detector that is fed from them."""

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from rlkd.data.detection.coco import coco
from rlkd.data.detection.coco_set import CocoSet

from . import images
from .command import check_result, command
from .json_values import spoilt_json
from .verdict import Case, FailedError, Place

GOOD: dict[str, Any] = {
    "info": {"x": 1},
    "images": [
        {"id": 10 * each, "file_name": f"{each}.png", "height": 40, "width": 30 + each}
        for each in range(4)
    ],
    "annotations": [
        {
            "id": each,
            "image_id": 10 * (each % 4),
            "category_id": 1 + each % 3,
            "bbox": [2, 3, 8.5, 9],
            "area": 60.5,
            "iscrowd": int(each == 5),
            "segmentation": [],
        }
        for each in range(10)
    ],
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "c"}],
}
WORDS = [
    *(
        "task=detection",
        "data=coco",
        "student=fasterrcnn_tiny",
        "trainer.epochs=1",
        "trainer.max_steps=1",
    ),
    *(
        "trainer.threads=1",
        "trainer.accelerator=cpu",
        "trainer.batch_size=2",
        "output=o",
        "task.detector.min_size=32",
    ),
    *(
        "data.train_images=train",
        "data.train_annotations=train.json",
        "data.test_images=test",
        "data.test_annotations=test.json",
    ),
]


def prepare(shared: Path) -> None:
    """Write images of each format."""
    images.prepare(shared)
    (shared / "coco").mkdir()
    for each in range(4):
        Image.effect_noise((30 + each, 40), 60).convert("RGB").save(shared / "coco" / f"{each}.png")


def make(draw: Random, place: Place) -> Case:
    """Draw two annotation files, one spoilt, and whether they are read or trained on."""
    root = place.given
    spoilt = draw.choice(("train", "test"))
    words = ""
    for split in ("train", "test"):
        (root / split).mkdir()
        for file in (place.shared / "coco").iterdir():
            (root / split / file.name).write_bytes(file.read_bytes())
        text = spoilt_json(draw, GOOD) if split == spoilt else json.dumps(GOOD)
        (root / f"{split}.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        words += text[:400] if split == spoilt else ""
    if draw.random() < 0.15:
        file = draw.choice((root / spoilt / "1.png", root / f"{spoilt}.json"))
        file.unlink()
        words = draw.choice((*images.SPECIAL, "spoilt", "spoilt"))
        if words == "spoilt":
            file.write_bytes(images.content(draw, place)[1])
        else:
            images.special(file, words)
        words = f"{file.name} is {words}"
    if draw.random() < 0.8:
        return Case(f"read: {spoilt}: {words}", lambda: _read(root))

    def act() -> str:
        command(["train", *WORDS, f"data.root={root}"])
        return check_result(Path("o"))

    return Case(f"train: {spoilt}: {words}", act)


def _read(root: Path) -> str:
    sets = coco(root, "train", "train.json", "test", "test.json")
    return "; ".join(_check(each) for each in (sets.train, sets.test))


def _check(held: CocoSet) -> str:
    objects = 0
    for row in range(len(held)):
        image, boxes = held.image(row), held.boxes(row)
        objects += len(boxes.label)
        height, width = image.shape[1:]
        inside = (boxes.box >= 0).all() and (boxes.box <= torch.tensor([width, height] * 2)).all()
        sides = (boxes.box[:, 2:] >= boxes.box[:, :2]).all()
        known = ((boxes.label > 0) & (boxes.label < held.num_classes)).all()
        if not (boxes.box.isfinite().all() and inside and sides and known):
            raise FailedError("nonsense", f"{boxes} in an image of {height} x {width}", "boxes")
    return f"{objects} objects in {len(held)} images"
