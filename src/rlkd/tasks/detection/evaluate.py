"""Scoring detectors: what they find in a set, and the average precision of it."""

import io
import json
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from rlkd import distributed
from rlkd.data.detection.coco_set import CocoSet
from rlkd.errors import UserError
from rlkd.models.eval_mode import evaluating
from rlkd.reporting import DetectionScores
from rlkd.text_files import write_text


class CocoResult(TypedDict):
    """One object found, as COCO's result files hold it."""

    image_id: int
    category_id: int
    bbox: list[float]
    """Left, top, width and height in pixels of the image as it is stored."""
    score: float
    """In [0, 1]."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a detector finds in one image."""

    box: Float[Tensor, "objects 4"]
    """Corners x1, y1, x2, y2 in pixels of the image."""
    label: Int[Tensor, " objects"]
    """Classes, from 1."""
    score: Float[Tensor, " objects"]
    """In [0, 1]."""


def find(
    detector: nn.Module,
    image: Sequence[Float[Tensor, "channels _ _"]],
    *,
    autocast: torch.dtype | None = None,
) -> list[Found]:
    """Run a detector over one batch in evaluation mode, which it leaves as it found it.

    Args:
        detector: takes a list of images and returns `boxes`, `labels` and `scores` of each.
        image: pixels in [0, 1], on the detector's device.
        autocast: the type to compute in; None for that of the weights.

    Returns:
        What is found in each image, in the detector's order, in float32 and in main memory.
    """
    casting = torch.autocast(
        image[0].device.type,
        autocast,
        enabled=autocast is not None,
        cache_enabled=False,  # casts of weights from before an update would be found in it
    )
    with evaluating(detector), torch.no_grad(), casting:
        found = detector(list(image))
    return [
        Found(each["boxes"].float().cpu(), each["labels"].cpu(), each["scores"].float().cpu())
        for each in found
    ]


def as_input(
    image: UInt8[Tensor, "3 height width"], device: torch.device | str
) -> Float[Tensor, "3 height width"]:
    """Return an image as a detector takes it: in [0, 1], on its device."""
    return image.to(device).float() / 255


def detect(
    detector: nn.Module,
    images: CocoSet,
    *,
    device: torch.device | str,
    batch_size: int = 4,
    autocast: torch.dtype | None = None,
) -> list[CocoResult]:
    """Return all that a detector finds in a set, every image once, in the set's order.

    Several ranks share the batches out, and each returns what all of them found.

    A label that is no category of the data, which the classifiers of COCO's 91 numbers have, is
    left out. A batch is padded to its largest image, which moves boxes by fractions of a pixel, so
    images share one only with those of their own size: what is found does not depend on the others.

    Args:
        detector: a detector of torchvision's kind, on `device`.
        images: the set.
        device: where the detector is.
        batch_size: images at once.
        autocast: the type to compute in; None for that of the weights.
    """
    numbered = enumerate(images.category_ids, start=1)
    category = {label: each for label, each in numbered if each in images.categories}
    of_row: dict[int, list[CocoResult]] = {}
    part = distributed.this_rank()
    for rows in list(_alike(images.sizes, batch_size))[part.rank :: part.world_size]:
        batch = [as_input(images.image(row), device) for row in rows]
        for row, found in zip(rows, find(detector, batch, autocast=autocast), strict=True):
            of_row[row] = _as_coco(found, images.image_id(row), category)
    of_row = {
        row: found for each in distributed.gather_objects(of_row) for row, found in each.items()
    }
    return [each for row in sorted(of_row) for each in of_row[row]]


def detection_scores(images: CocoSet, detections: Iterable[CocoResult]) -> DetectionScores:
    """Return COCO's average precision, of a set and of each of its classes, by pycocotools.

    Args:
        images: the set.
        detections: what was found in it; each image's 100 of the highest score in a class count.

    Returns:
        Fractions in [0, 1]; NaN for a size, and for a class, without objects.

    Raises:
        UserError: if pycocotools is not installed.
    """
    truth = images.ground_truth()
    found = [dict(each) for each in detections]  # pycocotools writes into what it reads
    with redirect_stdout(io.StringIO()):
        evaluation = _evaluation(truth, found)
    ap, ap50, ap75, small, medium, large = (_or_nan(each) for each in evaluation.stats[:6])
    of_category = _precision_of_category(evaluation)
    return DetectionScores(
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        ap_small=small,
        ap_medium=medium,
        ap_large=large,
        per_class={name: of_category[each] for each, name in images.categories.items()},
    )


def evaluate_detector(
    detector: nn.Module,
    images: CocoSet,
    *,
    device: torch.device | str,
    batch_size: int = 4,
    autocast: torch.dtype | None = None,
) -> tuple[DetectionScores, list[CocoResult]]:
    """Score a detector on a set, and return what it found: see `detect`, `detection_scores`.

    Raises:
        UserError: if pycocotools is not installed, before anything is computed.
    """
    require_pycocotools()
    found = detect(detector, images, device=device, batch_size=batch_size, autocast=autocast)
    return detection_scores(images, found), found


def write_detections(path: str | Path, detections: Iterable[CocoResult]) -> None:
    """Write a result file that `COCO(annotations).loadRes(path)` reads, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, json.dumps(list(detections)))


def require_pycocotools() -> tuple[Any, Any]:
    """Return pycocotools' `COCO` and `COCOeval`.

    Raises:
        UserError: if it is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError(
            "scoring detections needs pycocotools, which is not installed: pip install pycocotools"
        ) from None
    return COCO, COCOeval


def _evaluation(truth: dict[str, Any], found: list[dict[str, Any]]) -> Any:
    """Return pycocotools' evaluation, summarised."""
    coco, coco_eval = require_pycocotools()
    expected = coco()
    expected.dataset = truth
    expected.createIndex()
    if found:
        given = expected.loadRes(found)
    else:  # which `loadRes` refuses
        given = coco()
        given.dataset = {**truth, "annotations": []}
        given.createIndex()
    evaluation = coco_eval(expected, given, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _precision_of_category(evaluation: Any) -> dict[int, float]:
    """Return AP of each category over all overlaps, areas and up to 100 detections."""
    precision: np.ndarray = evaluation.eval["precision"]  # overlap, recall, class, area, most
    mean: dict[int, float] = {}
    for column, category in enumerate(evaluation.params.catIds):
        of_class = precision[:, :, column, 0, -1]
        known = of_class[of_class > -1]
        mean[int(category)] = float(known.mean()) if known.size else math.nan
    return mean


def _alike(size: Int[Tensor, "images 2"], batch_size: int) -> Generator[list[int]]:
    """Cut rows into batches of one height and width."""
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, one in enumerate(size.tolist()):
        rows_of.setdefault(tuple(one), []).append(row)
    for rows in rows_of.values():
        for first in range(0, len(rows), batch_size):
            yield rows[first : first + batch_size]


def _or_nan(value: float) -> float:
    """Return a figure of pycocotools, which says -1 where there is nothing to measure."""
    return math.nan if value < 0 else float(value)


def _as_coco(found: Found, image_id: int, category: dict[int, int]) -> list[CocoResult]:
    return [
        CocoResult(
            image_id=image_id,
            category_id=category[label],
            bbox=[x1, y1, x2 - x1, y2 - y1],
            score=score,
        )
        for (x1, y1, x2, y2), label, score in zip(
            found.box.tolist(), found.label.tolist(), found.score.tolist(), strict=True
        )
        if label in category
    ]
