"""What is found out about the images of a run before it trains."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.support.detection_parts import make_detector
from tests.support.detection_runs import tiny_detection, without_shapes, write_own

from rlkd.config.compose import configure
from rlkd.data.detection.annotation_checks import AnnotationTable, ImageTable
from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.detection.images import MemoryImages
from rlkd.engine import build
from rlkd.errors import UserError
from rlkd.tasks.detection.data import Held, check_sizes, hold_out


def held(root: Path, output: Path) -> Held:
    settings = without_shapes(tiny_detection(output / "none", output, "probe.size=4"))
    config = configure([*settings, "data=coco", f"data.root={root}"])
    return hold_out(config, build.trainer_options(config))


def flatten(file: Path, *places: int) -> list[int]:
    """Take the area from some annotations of a file; return their ids."""
    content = json.loads(file.read_text())
    for place in places:
        content["annotations"][place]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    return [content["annotations"][place]["id"] for place in places]


def test_training_annotations_without_area_are_told_once(tmp_path: Path) -> None:
    own = write_own(tmp_path / "own")
    flatten(own / "annotations" / "instances_val2017.json", 1)
    with warnings.catch_warnings(action="error"):
        held(own, tmp_path / "run")
    for places, number in (((4,), "1 annotation"), ((2, 4), "2 annotations")):
        ids = flatten(own / "annotations" / "instances_train2017.json", *places)
        with pytest.warns(UserWarning, match="want of area") as told:
            held(own, tmp_path / "run")
        assert [str(each.message) for each in told] == [
            f"left out of training for want of area: {number}, the first with the id {ids[0]}"
        ]


def images_of(sizes: Sequence[tuple[int, int]]) -> CocoSet:
    """Return images without objects, of these heights and widths."""
    none = torch.zeros(0, dtype=torch.long)
    empty = torch.zeros(0, dtype=torch.float64)
    return CocoSet(
        MemoryImages(tuple(torch.zeros(3, *size, dtype=torch.uint8) for size in sizes)),
        ImageTable(
            torch.arange(len(sizes)),
            tuple(f"{row}.png" for row in range(len(sizes))),
            torch.tensor(sizes),
        ),
        AnnotationTable(none, none, none, empty.view(0, 4), empty, none.bool()),
        {1: "a"},
    )


@pytest.mark.parametrize("min_size", [64, [32, 64]])
def test_an_image_is_refused_if_torchvision_cannot_resize_it(min_size: int | list[int]) -> None:
    detector = make_detector(min_size=min_size, max_size=160)
    small = [(1, 160), (160, 1), (7, 1000), (1000, 7), (2, 320), (1, 1), (3, 480), (49, 49)]
    check_sizes(images_of(small), detector)
    for size in small:
        detector.transform([torch.zeros(3, *size)])
    for height, width in ((5, 1000), (1000, 5), (6, 1000), (1, 161), (3, 481)):
        told = rf"^image 8\.png of {width} x {height} pixels is too elongated: .*resized to 160"
        with pytest.raises(UserError, match=told):
            check_sizes(images_of([*small, (height, width)]), detector)
        with pytest.raises(RuntimeError):
            detector.transform([torch.zeros(3, height, width)])


def test_the_side_that_training_draws_and_testing_does_not_counts_too() -> None:
    # Twice the smaller side would leave room: 1 / 49 * 49 is a little less than 1.
    assert 1 / 49 * 49 < 1
    with pytest.raises(UserError, match="49 x 49"):
        check_sizes(images_of([(49, 49)]), make_detector(min_size=[1, 64], max_size=160))
