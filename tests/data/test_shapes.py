from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchvision.ops import box_iou

import rlkd.configs
from rlkd.data.detection import shapes as generator
from rlkd.data.detection.coco import DetectionSets, coco
from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.detection.shapes import CLASS_NAMES, shapes, write_shapes
from rlkd.errors import UserError


@pytest.fixture(scope="module")
def sets() -> DetectionSets:
    return shapes(train=60, test=30, size=96, seed=5)


def assert_same(images: CocoSet, other: CocoSet) -> None:
    assert len(images) == len(other) > 0
    assert images.ground_truth() == other.ground_truth()
    for row in range(len(images)):
        assert torch.equal(images.image(row), other.image(row))
        assert torch.equal(images.boxes(row).box, other.boxes(row).box)
        assert torch.equal(images.boxes(row).label, other.boxes(row).label)


def test_the_config_makes_the_default_set() -> None:
    folder = Path(rlkd.configs.__file__).parent / "data"
    options: dict[str, Any] = {"train": 3, "test": 2}
    sets: DetectionSets = instantiate(OmegaConf.load(folder / "shapes.yaml"), **options)
    assert_same(sets.train, shapes(train=3, test=2).train)
    assert (sets.name, sets.num_classes, sets.class_names) == ("shapes", 6, CLASS_NAMES)
    assert [sets.train.size(row) for row in range(3)] == [(96, 96)] * 3


def test_scenes_depend_on_seed_part_and_row_alone(sets: DetectionSets) -> None:
    torch.rand(2)
    again = shapes(train=20, test=20, size=96, seed=5)
    assert_same(again.train, sets.train.select(range(20)))
    assert_same(again.test, sets.test.select(range(20)))
    other = shapes(train=20, test=20, size=96, seed=6)
    for row in range(20):
        assert not torch.equal(sets.train.image(row), sets.test.image(row))
        assert not torch.equal(sets.train.image(row), other.train.image(row))


def test_every_scene_has_one_to_four_shapes_of_all_kinds_that_cover_little(
    sets: DetectionSets,
) -> None:
    counts, labels, sides = set[int](), list[int](), list[float]()
    for row in range(len(sets.train)):
        boxes = sets.train.boxes(row)
        counts.add(len(boxes.label))
        labels += boxes.label.tolist()
        sides += (boxes.box[:, 2:] - boxes.box[:, :2]).amax(dim=1).tolist()
        overlap = box_iou(boxes.box, boxes.box).fill_diagonal_(0)
        assert overlap.max() <= 0.3
        assert boxes.box.min() >= 0
        assert boxes.box.max() <= 96
    assert counts == {1, 2, 3, 4}
    assert set(labels) == {1, 2, 3, 4, 5}
    # The circle around a shape is 12 to 48 pixels wide, a turned square's side 0.7 of that.
    assert 7 <= min(sides) < 16
    assert 36 < max(sides) <= 48


@pytest.mark.parametrize("row", range(8))
def test_boxes_are_tight_about_what_is_drawn(monkeypatch: pytest.MonkeyPatch, row: int) -> None:
    """Draw the same scene in white on black, without texture, blur or noise."""
    (expected,) = (shapes(train=row + 1, test=1, seed=2).train.boxes(row) for _ in range(1))

    def ground(size: int, random: np.random.Generator) -> Any:
        _, colour = original(size, random)
        return np.zeros((size, size, 3)), colour

    level = iter(range(40, 256, 50))
    original, original_fill = generator._ground, generator._fill

    def fill(size: int, colour: Any, random: np.random.Generator) -> Any:
        original_fill(size, colour, random)
        return np.full((size, size, 3), float(next(level)))

    monkeypatch.setattr(generator, "_ground", ground)
    monkeypatch.setattr(generator, "_fill", fill)
    monkeypatch.setattr(generator, "_blurred", lambda image, strength: _keep(image, drawn))
    drawn: list[Any] = []
    generator._scene(96, np.random.default_rng((2, 0, row)))
    (picture,) = drawn
    for index, box in enumerate(expected.box.tolist()):
        y, x = (picture[..., 0] == 40 + 50 * index).nonzero()
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert set(np.unique(picture)) == {0.0, *(40.0 + 50 * one for one in range(len(expected.box)))}


def _keep(image: Any, drawn: list[Any]) -> Any:
    drawn.append(image.copy())
    return image


def test_each_kind_has_the_area_of_its_figure() -> None:
    y, x = (np.mgrid[:400, :400] + 0.5) / 200 - 1  # the square about the unit circle
    areas = [float(generator._inside(name, x, y).mean()) * 4 for name in CLASS_NAMES]
    # pi; side sqrt(2); 3 sqrt(3) / 4; two bars of 1.9 x 0.6 that share 0.6 x 0.6; and of the
    # pentagram, 10 tan(18 deg) / (3 - tan(18 deg)^2).
    expected = [3.14159, 2.0, 1.29904, 1.92, 1.12257]
    assert areas == pytest.approx(expected, rel=0.01)


def test_the_written_folder_is_read_back_as_the_set_in_memory(
    tmp_path: Path, sets: DetectionSets
) -> None:
    write_shapes(tmp_path / "new", train=12, test=7, size=96, seed=5)
    written = coco(tmp_path / "new")
    assert_same(written.train, sets.train.select(range(12)))
    assert_same(written.test, sets.test.select(range(7)))
    assert written.class_names == sets.class_names


def test_areas_are_what_can_be_seen_and_fill_no_more_than_the_box(sets: DetectionSets) -> None:
    for one in sets.train.ground_truth()["annotations"]:
        width, height = one["bbox"][2:]
        assert 0.15 * width * height < one["area"] <= width * height


@pytest.mark.parametrize("option", [{"train": 0}, {"test": 0}, {"size": 47}, {"seed": -1}])
def test_options_out_of_range_are_refused(option: dict[str, int]) -> None:
    ((name, value),) = option.items()
    with pytest.raises(UserError, match=rf"data\.{name}={value}: give"):
        shapes(**option)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"size": 4096, "test": 65}, r"^data\.test=65: .* at most 64$"),
        ({"size": 96, "train": 10**6}, r"^data\.train=1000000: .* at most 116508$"),
        ({"size": 16384}, r"^data\.size=16384: .* at most 4096$"),
    ],
)
def test_more_pixels_than_memory_is_meant_for_are_refused(
    given: dict[str, int], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "_generate", None)
    with pytest.raises(UserError, match=told):
        shapes(**{"train": 1, "test": 1, **given})
