"""Average precision beside pycocotools and hand arithmetic, and what a detector is asked for."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.conftest import RealData
from torch import Tensor, nn

from rlkd.data.detection.coco import read_coco
from rlkd.data.detection.coco_set import CocoSet
from rlkd.errors import UserError
from rlkd.tasks.detection.evaluate import (
    CocoResult,
    detect,
    detection_scores,
    evaluate_detector,
    write_detections,
)

CATEGORIES = {3: "ball", 7: "car", 20: "dog"}
SIZES = ((200, 160), (180, 220), (200, 160))
"""Width and height of the images, whose every pixel has the value 10 * (row + 1)."""

Object = tuple[int, int, list[float]]
"""Row of the image, category and box x, y, w, h."""


def write_set(folder: Path, objects: Sequence[Object], *, crowd: Sequence[int] = ()) -> Path:
    """Write images of one grey each and their annotations; return the annotation file."""
    folder.mkdir(exist_ok=True)
    for row, size in enumerate(SIZES):
        Image.new("RGB", size, (10 * (row + 1),) * 3).save(folder / f"{row}.png")
    annotations = folder / "annotations.json"
    annotations.write_text(
        json.dumps(
            {
                "images": [
                    {"id": 100 + row, "file_name": f"{row}.png", "width": width, "height": height}
                    for row, (width, height) in enumerate(SIZES)
                ],
                "annotations": [
                    {
                        "id": number + 1,
                        "image_id": 100 + row,
                        "category_id": category,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": int(number in crowd),
                    }
                    for number, (row, category, box) in enumerate(objects)
                ],
                "categories": [{"id": each, "name": name} for each, name in CATEGORIES.items()],
            }
        )
    )
    return annotations


def make_set(folder: Path, objects: Sequence[Object], *, crowd: Sequence[int] = ()) -> CocoSet:
    return read_coco(folder, write_set(folder, objects, crowd=crowd))


def detection(row: int, category: int, box: list[float], score: float) -> CocoResult:
    return {"image_id": 100 + row, "category_id": category, "bbox": box, "score": score}


def by_pycocotools(annotations: Path, results: Path | list[Any]) -> list[float]:
    """Return the six average precisions as pycocotools' own example computes them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(annotations))
    found = truth.loadRes(str(results) if isinstance(results, Path) else results)
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [math.nan if each < 0 else float(each) for each in evaluation.stats[:6]]


def six(scores: Any) -> list[float]:
    of_size = [scores.ap_small, scores.ap_medium, scores.ap_large]
    return [scores.ap, scores.ap50, scores.ap75, *of_size]


class Reciter(nn.Module):
    """A detector that knows the images by their grey, and says what it was told to find."""

    def __init__(self, found: dict[int, list[tuple[list[float], int, float]]]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout().eval()
        self.found = found
        self.sizes: list[tuple[int, ...]] = []
        self.batches: list[int] = []

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not any(each.training for each in self.modules())
        assert not torch.is_grad_enabled()
        self.batches.append(len(images))
        return [self.recite(image) for image in images]

    def recite(self, image: Tensor) -> dict[str, Tensor]:
        assert image.dtype == torch.float32
        assert float(image.max()) <= 1
        self.sizes.append(tuple(image.shape))
        found = self.found[round(float(image[0, 0, 0]) * 255) // 10 - 1]
        return {
            "boxes": torch.tensor([box for box, _, _ in found]).reshape(-1, 4),
            "labels": torch.tensor([label for _, label, _ in found], dtype=torch.int64),
            "scores": torch.tensor([score for _, _, score in found]),
        }


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    before = [each.training for each in network.modules()]
    yield
    assert [each.training for each in network.modules()] == before


def test_perfect_detections_have_a_precision_of_one(tmp_path: Path) -> None:
    objects: list[Object] = [
        (0, 3, [10, 10, 20, 20]),
        (0, 7, [50, 40, 60, 60]),
        (1, 20, [5, 5, 120, 120]),
        (2, 3, [100, 90, 33, 44]),
    ]
    images = make_set(tmp_path, objects)
    scores = detection_scores(images, [detection(*each, 1.0) for each in objects])
    assert six(scores) == pytest.approx([1.0] * 6)
    assert list(scores.per_class) == ["ball", "car", "dog"]
    assert scores.per_class["dog"] == pytest.approx(1)


def test_a_box_of_overlap_six_tenths_passes_three_of_ten_thresholds(tmp_path: Path) -> None:
    # Shifted by a quarter of its width, 80 x 40 pixels share 60 of 100 columns: 0.6 exactly, which
    # is enough at 0.5, 0.55 and 0.6.
    images = make_set(tmp_path, [(0, 3, [20, 30, 80, 40])])
    scores = detection_scores(images, [detection(0, 3, [40, 30, 80, 40], 0.9)])
    nan = math.nan
    assert six(scores) == pytest.approx([0.3, 1, 0, nan, 0.3, nan], nan_ok=True)


def test_a_missed_class_counts_and_an_absent_one_does_not(tmp_path: Path) -> None:
    images = make_set(tmp_path, [(0, 3, [10, 10, 40, 40]), (1, 20, [10, 10, 40, 40])])
    scores = detection_scores(images, [detection(0, 3, [10, 10, 40, 40], 0.9)])
    assert scores.ap == pytest.approx(0.5)
    assert list(scores.per_class) == ["ball", "car", "dog"]
    assert list(scores.per_class.values()) == pytest.approx([1, math.nan, 0], nan_ok=True)


def test_precision_agrees_with_hand_arithmetic(tmp_path: Path) -> None:
    # In order of score: right, wrong, right, of two objects. Precision 1 at recall 1/2, 2/3 at
    # recall 1; of the 101 recalls 0, 0.01, ..., 1 the first 51 are reached with precision 1, the
    # other 50 with 2/3.
    first, second = [10.0, 10, 40, 40], [10.0, 100, 40, 40]
    images = make_set(tmp_path, [(0, 3, first), (0, 3, second)])
    found = [
        detection(0, 3, second, 0.3),
        detection(0, 3, [120, 10, 40, 40], 0.5),
        detection(0, 3, first, 0.8),
    ]
    assert detection_scores(images, found).ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_without_detections_the_precision_is_nought(tmp_path: Path) -> None:
    images = make_set(tmp_path, [(0, 3, [10, 10, 40, 40])])
    expected = [0, 0, 0, math.nan, 0, math.nan]
    assert six(detection_scores(images, [])) == pytest.approx(expected, nan_ok=True)


def test_an_object_of_number_nought_is_an_object(tmp_path: Path) -> None:
    annotations = write_set(tmp_path, [(0, 3, [10, 10, 40, 40])])
    content = json.loads(annotations.read_text())
    content["annotations"][0]["id"] = 0
    annotations.write_text(json.dumps(content))
    images = read_coco(tmp_path, annotations)
    scores = detection_scores(images, [detection(0, 3, [10, 10, 40, 40], 0.9)])
    assert scores.ap == pytest.approx(1)


def noisy(objects: Sequence[Object]) -> list[CocoResult]:
    """Objects, moved and scored by chance, every second one twice, some of a wrong class."""
    generator = torch.Generator().manual_seed(0)
    found: list[CocoResult] = []
    for number, (row, category, box) in enumerate(objects):
        for _ in range(1 + number % 2):
            moved = torch.tensor(box) + 3 * torch.randn(4, generator=generator)
            score = float(torch.rand(1, generator=generator))
            chosen = category if number % 5 else 7
            found.append(detection(row, chosen, moved.abs().tolist(), score))
    return found


def many_objects() -> list[Object]:
    return [
        (row, category, [10.0 + 17 * column, 10.0 + 50 * line, 12.0 + 8 * column, 40.0])
        for row in range(3)
        for line, category in enumerate(CATEGORIES)
        for column in range(4)
    ]


def test_what_is_written_scores_the_same_by_pycocotools_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = many_objects()
    images = make_set(tmp_path, objects, crowd=(4, 9))
    found = noisy(objects)
    before = json.dumps(found)
    scores = detection_scores(images, found)
    assert capsys.readouterr().out == ""
    assert json.dumps(found) == before
    write_detections(tmp_path / "detections.json", found)
    assert json.loads((tmp_path / "detections.json").read_text()) == found
    expected = by_pycocotools(tmp_path / "annotations.json", tmp_path / "detections.json")
    assert 0.1 < scores.ap < 0.9
    assert six(scores) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    known = [each for each in scores.per_class.values() if not math.isnan(each)]
    assert scores.ap == pytest.approx(sum(known) / len(known))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_image_is_seen_once_and_labels_become_categories(
    tmp_path: Path, batch_size: int
) -> None:
    images = make_set(tmp_path, [(0, 3, [10, 10, 40, 40])])
    detector = Reciter(
        {
            0: [([10.25, 10, 50, 50], 1, 0.9), ([0, 0, 5, 7], 3, 0.5)],
            1: [],
            2: [([1, 2, 4, 8], 2, 0.25), ([1, 2, 3, 4], 4, 0.9)],  # there is no label 4
        }
    )
    detector.train()
    detector.drop.eval()
    with modes_kept(detector):
        found = detect(detector, images, device="cpu", batch_size=batch_size)
    assert found == [
        detection(0, 3, [10.25, 10, 39.75, 40], pytest.approx(0.9)),
        detection(0, 20, [0, 0, 5, 7], 0.5),
        detection(2, 7, [1, 2, 3, 6], 0.25),
    ]
    assert all(type(each) is float for each in [*found[0]["bbox"], found[0]["score"]])
    assert sorted(detector.sizes) == sorted((3, height, width) for width, height in SIZES)
    assert detector.batches == ([1, 1, 1] if batch_size == 1 else [2, 1])  # alike ones together


def test_with_ids_kept_a_label_is_its_category_and_gaps_are_dropped(tmp_path: Path) -> None:
    annotations = write_set(tmp_path, [(0, 7, [10, 10, 40, 40])])
    images = read_coco(tmp_path, annotations, keep_ids=True)
    box = [10.0, 10, 50, 50]
    detector = Reciter({0: [(box, 7, 0.5), (box, 5, 0.5), (box, 20, 0.25)], 1: [], 2: []})
    scores, found = evaluate_detector(detector, images, device="cpu")
    assert [each["category_id"] for each in found] == [7, 20]
    assert scores.ap == pytest.approx(1)
    assert list(scores.per_class) == ["ball", "car", "dog"]


def test_the_mode_is_restored_after_a_failure(tmp_path: Path) -> None:
    images = make_set(tmp_path, [(0, 3, [10, 10, 40, 40])])
    detector = Reciter({})
    with modes_kept(detector), pytest.raises(KeyError):
        detect(detector, images, device="cpu")


def test_without_pycocotools_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_set(tmp_path, [(0, 3, [10, 10, 40, 40])])
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    detector = Reciter({})
    with pytest.raises(UserError, match="pip install pycocotools"):
        evaluate_detector(detector, images, device="cpu")
    assert detector.batches == []


def test_the_truth_of_real_images_scores_one(real_data: RealData) -> None:
    root = real_data("coco128")
    images = read_coco(root / "val2017", root / "annotations" / "instances_val2017.json")
    truth = [
        CocoResult(
            image_id=each["image_id"], category_id=each["category_id"], bbox=each["bbox"], score=1.0
        )
        for each in images.ground_truth()["annotations"]
        if not each["iscrowd"]
    ]
    assert six(detection_scores(images, truth)) == pytest.approx([1.0] * 6)
