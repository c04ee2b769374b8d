"""Detection runs small enough for a test: 16 scenes of 64 pixels, 4 batches an epoch, 2 epochs."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tests.support.runs import silent

from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.detection.shapes import shapes, write_shapes
from rlkd.engine.run import train

SHAPES = ("data=shapes", "data.train=16", "data.test=6", "data.size=64")
PAIR = ("teacher=fasterrcnn_tiny", "student=fasterrcnn_tiny")
DETECTOR = ("task.detector.min_size=64", "task.detector.regions_per_image=16")
SHORT = (
    "trainer.epochs=2",
    "trainer.batch_size=4",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "optimizer.lr=0.001",
)
LEARNING = (
    "temperature.update_interval=1",
    "temperature.warmup_epochs=1",
    "exploration.epochs=1",
    "exploration.selected=0.4",
)
RUNS: dict[str, tuple[str, ...]] = {
    "constant": ("temperature=constant",),
    "ctkd": ("temperature=ctkd",),
    "random": ("temperature=random", "temperature.warmup_epochs=1"),
    "rlkd": ("temperature=rlkd", "probe.size=4", "temperature.probe_interval=1", *LEARNING),
    "rlkd_paper": ("temperature=rlkd_paper", *LEARNING),
    "dkd": ("temperature=constant", "method=dkd", "trainer.validation_size=4"),
}
"""A run of each source, one epoch of warm-up and one explored, and one of another method."""

OWN_CLASSES = {3: "ball", 8: "box", 21: "tent", 55: "plus", 90: "sea star"}
"""Categories of one's own: the ids have gaps, and COCO has none of these names."""


def write_detector(path: Path) -> Path:
    """Train a fasterrcnn_tiny for seconds, so that it finds something; return its weights."""
    settings = [
        "optimizer=adamw",
        "optimizer.lr=0.002",
        "scheduler=constant",
        "trainer.epochs=14",
        "trainer.evaluate_every=14",
        "task.detector.min_size=64",
    ]
    kept = [each for each in SHORT if not each.startswith(("optimizer", "trainer.epochs"))]
    train(["task=detection", *SHAPES, *kept, *settings, f"output='{path}'"], console=silent())
    # As somebody else's weights are: nothing beside them names their classes.
    return shutil.copy(path / "student.safetensors", path.with_name(f"{path.name}.safetensors"))


def tiny_detection(detector: Path, output: Path, *more: str) -> list[str]:
    """The overrides of a tiny run; a later one replaces an earlier one of the same key."""
    weights = (f"teacher.checkpoint='{detector}'", f"student.checkpoint='{detector}'")
    given = [*SHAPES, *PAIR, *DETECTOR, *SHORT, *weights, f"output='{output}'", *more]
    return ["task=detection", *{each.partition("=")[0]: each for each in given}.values()]


def without_shapes(settings: Iterable[str]) -> list[str]:
    return [each for each in settings if not each.startswith("data")]


def tiny_test_set() -> CocoSet:
    return shapes(train=16, test=6, size=64).test


def write_own(folder: Path) -> Path:
    """Write a set in COCO's layout: gaps between ids, unlike sizes, an empty image and a crowd."""
    write_shapes(folder, train=16, test=6, size=64)
    ids = list(OWN_CLASSES)
    for part in ("train2017", "val2017"):
        file = folder / "annotations" / f"instances_{part}.json"
        content = json.loads(file.read_text())
        content["categories"] = [{"id": each, "name": OWN_CLASSES[each]} for each in ids]
        for each in content["annotations"]:
            each["category_id"] = ids[each["category_id"] - 1]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 2]
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"][0]["segmentation"] = {"size": [64, 64], "counts": [64 * 64]}
        for row, image in enumerate(content["images"]):
            # The scene is continued to the right or downwards by grey.
            wider, taller = ((8 * row, 0), (0, 8 * row))[row % 2]
            path = folder / part / image["file_name"]
            scene = np.asarray(Image.open(path))
            scene = np.pad(scene, ((0, taller), (0, wider), (0, 0)), constant_values=128)
            Image.fromarray(scene).save(path)
            image["height"], image["width"] = scene.shape[:2]
        file.write_text(json.dumps(content))
    return folder


def by_pycocotools(truth: COCO, results: Path | list[dict[str, Any]]) -> list[float]:
    """Return the six average precisions, as pycocotools' own example computes them."""
    given: Any = results if isinstance(results, list) else str(results)
    found = truth.loadRes(given)
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(each) for each in evaluation.stats[:6]]


def as_coco(images: CocoSet) -> COCO:
    truth: Any = COCO()
    truth.dataset = images.ground_truth()
    truth.createIndex()
    return truth
