from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import RealData
from tests.data.coco_files import noise, read

from rlkd.data.detection.annotation_checks import AnnotationTable, ImageTable
from rlkd.data.detection.coco import coco
from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.detection.images import MemoryImages
from rlkd.data.detection.loader import DetectionLoader, mirrored
from rlkd.errors import UserError
from rlkd.types import Boxes, DetectionBatch

COUNT = 23
SIZES = [(12, 20) if row % 3 else (21, 13) for row in range(COUNT)]
"""Height and width: 15 images are wide, 8 are tall."""


@pytest.fixture
def images() -> CocoSet:
    """Images of noise with as many objects each as the last digit of the row says, up to 2."""
    objects = [row for row in range(COUNT) for _ in range(row % 3)]
    generator = torch.Generator().manual_seed(0)
    box = torch.rand(len(objects), 4, generator=generator, dtype=torch.float64) * 8 + 1
    return CocoSet(
        MemoryImages(tuple(noise(*size) + row for row, size in enumerate(SIZES))),
        ImageTable(torch.arange(COUNT), tuple(map(str, range(COUNT))), torch.tensor(SIZES)),
        AnnotationTable(
            identity=torch.arange(1, len(objects) + 1),
            row=torch.tensor(objects),
            category_id=torch.arange(len(objects)) % 2 + 1,
            box=box,
            area=box[:, 2] * box[:, 3],
            crowd=torch.zeros(len(objects), dtype=torch.bool),
        ),
        {1: "a", 2: "b"},
    )


def loader_of(images: CocoSet, **options: Any) -> DetectionLoader:
    defaults: dict[str, Any] = {
        "batch_size": 4,
        "shuffle": True,
        "seed": 3,
        "flip": True,
        "group_by_aspect": True,
    }
    return DetectionLoader(images, **(defaults | options))


def assert_same(batches: list[DetectionBatch], others: list[DetectionBatch]) -> None:
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch.index, other.index)
        for one, two in zip(batch.image, other.image, strict=True):
            assert torch.equal(one, two)
        for one, two in zip(batch.boxes, other.boxes, strict=True):
            assert torch.equal(one.box, two.box)
            assert torch.equal(one.label, two.label)


def plain(images: CocoSet, **options: Any) -> DetectionLoader:
    still: dict[str, Any] = {"shuffle": False, "flip": False}
    return loader_of(images, group_by_aspect=False, **(still | options))


def test_without_augmentation_a_batch_is_the_images_as_they_are(images: CocoSet) -> None:
    batches = list(plain(images))
    assert [len(batch.image) for batch in batches] == [4, 4, 4, 4, 4, 3]
    for row, (image, boxes) in enumerate(
        pair for batch in batches for pair in zip(batch.image, batch.boxes, strict=True)
    ):
        assert torch.equal(image, images.image(row) / 255)
        assert torch.equal(boxes.box, images.boxes(row).box)
        assert torch.equal(boxes.label, images.boxes(row).label)
    assert torch.equal(torch.cat([batch.index for batch in batches]), torch.arange(COUNT))


def test_a_mirrored_image_shows_each_object_in_its_mirrored_box() -> None:
    image = torch.zeros(3, 6, 10, dtype=torch.uint8)
    image[:, 1:3, 2:7] = 255
    boxes = Boxes(torch.tensor([[2.0, 1.0, 7.0, 3.0]]), torch.tensor([1]))
    turned, found = mirrored(image, boxes)
    # 10 - 7 = 3 and 10 - 2 = 8.
    assert found.box.tolist() == [[3, 1, 8, 3]]
    assert turned[:, 1:3, 3:8].eq(255).all()
    assert turned.count_nonzero() == 3 * 2 * 5


def test_two_flips_of_real_images_are_none(real_data: RealData) -> None:
    images = coco(real_data("coco128")).test
    for row in range(4):
        image, boxes = images.image(row), images.boxes(row)
        again, twice = mirrored(*mirrored(image, boxes))
        assert torch.equal(again, image)
        torch.testing.assert_close(twice.box, boxes.box, rtol=0, atol=1e-4)
        assert len(boxes.box) > 0


def test_half_of_the_images_are_flipped_by_an_independent_draw(images: CocoSet) -> None:
    loader = plain(images, flip=True)
    flipped = 0
    for epoch in range(20):
        loader.set_epoch(epoch)
        for batch in loader:
            for row, image in zip(batch.index.tolist(), batch.image, strict=True):
                still = images.image(row) / 255
                turned = torch.equal(image, still.flip(2))
                assert turned != torch.equal(image, still)
                flipped += turned
    # 460 draws: 230 with a standard deviation of 10.7.
    assert abs(flipped - 230) < 5 * 10.7


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 23, 40])
def test_each_image_comes_once_and_the_length_holds(
    images: CocoSet, group: bool, batch_size: int
) -> None:
    loader = loader_of(images, group_by_aspect=group, batch_size=batch_size)
    for epoch in range(5):
        loader.set_epoch(epoch)
        rows = [batch.index for batch in loader]
        assert len(rows) == len(loader) == -(-COUNT // batch_size)
        assert torch.equal(torch.cat(rows).sort().values, torch.arange(COUNT))
        if batch_size < COUNT:
            assert [len(one) for one in rows[:-1]] == [batch_size] * (len(rows) - 1)


def test_full_batches_are_of_one_orientation_and_rests_come_last(images: CocoSet) -> None:
    loader = loader_of(images)
    for epoch in range(5):
        loader.set_epoch(epoch)
        kinds = [{row % 3 > 0 for row in batch.index.tolist()} for batch in loader]
        # 15 wide images fill 3 batches of 4, 8 tall ones 2; 3 are over.
        assert sorted(kinds[:5], key=str) == [{False}] * 2 + [{True}] * 3
        assert kinds[5] == {True}


def test_batches_of_a_kind_come_as_they_become_full(images: CocoSet) -> None:
    rows = [batch.index.tolist() for batch in loader_of(images, shuffle=False)]
    # Tall are 0, 3, 6, 9 and 12, 15, 18, 21.
    assert rows == [
        [1, 2, 4, 5],
        [0, 3, 6, 9],
        [7, 8, 10, 11],
        [13, 14, 16, 17],
        [12, 15, 18, 21],
        [19, 20, 22],
    ]


@pytest.mark.parametrize("group", [False, True])
def test_drop_last_leaves_only_full_batches(images: CocoSet, group: bool) -> None:
    loader = loader_of(images, drop_last=True, group_by_aspect=group)
    assert [len(batch.index) for batch in loader] == [4] * 5
    assert len(loader) == 5


def test_an_epoch_depends_on_seed_and_epoch_alone(images: CocoSet) -> None:
    travelled = loader_of(images)
    for epoch in (0, 7, 1):
        travelled.set_epoch(epoch)
        next(iter(travelled))
    torch.rand(3)
    travelled.set_epoch(2)
    fresh = loader_of(images)
    fresh.set_epoch(2)
    assert_same(list(travelled), list(fresh))
    assert_same(list(travelled), list(fresh))


@pytest.mark.parametrize("change", ["epoch", "seed"])
def test_epochs_and_seeds_differ_in_order_and_flips(images: CocoSet, change: str) -> None:
    first = loader_of(images, batch_size=COUNT)
    second = loader_of(images, batch_size=COUNT, seed=4 if change == "seed" else 3)
    second.set_epoch(1 if change == "epoch" else 0)
    ((one,), (other,)) = list(first), list(second)
    assert not torch.equal(one.index, other.index)
    flips = [
        [
            torch.equal(batch.image[place], images.image(row).flip(2) / 255)
            for row, place in enumerate(batch.index.argsort().tolist())
        ]
        for batch in (one, other)
    ]
    assert flips[0] != flips[1]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of few cores
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_and_leave_the_global_generator_alone(
    images: CocoSet, workers: int
) -> None:
    state = torch.get_rng_state()
    loader = loader_of(images, workers=workers)
    assert_same(list(loader), list(loader_of(images)))
    assert torch.equal(torch.get_rng_state(), state)
    loader.set_epoch(1)
    loader.start_at(4)
    whole = loader_of(images)
    whole.set_epoch(1)
    assert_same(list(loader), list(whole)[4:])


def test_start_at_resumes_within_an_epoch_and_only_once(images: CocoSet) -> None:
    whole = list(loader_of(images))
    resumed = loader_of(images)
    resumed.start_at(3)
    assert len(resumed) == 6
    assert_same(list(resumed), whole[3:])
    assert_same(list(resumed), whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_start_at_the_end_of_an_epoch_yields_nothing(images: CocoSet, workers: int) -> None:
    loader = loader_of(images, workers=workers)
    loader.start_at(6)
    assert list(loader) == []


@pytest.mark.parametrize("batch", [-1, 7])
def test_a_start_outside_the_epoch_is_refused(images: CocoSet, batch: int) -> None:
    with pytest.raises(UserError, match=f"cannot start at batch {batch} of an epoch of 6"):
        loader_of(images).start_at(batch)


def test_a_batch_can_be_spoilt_without_spoiling_the_set(images: CocoSet) -> None:
    for batch in plain(images):
        for image, boxes in zip(batch.image, batch.boxes, strict=True):
            image.zero_()
            boxes.box.zero_()
    again = next(iter(plain(images)))
    assert torch.equal(again.image[1], images.image(1) / 255)
    assert again.boxes[1].box.count_nonzero() == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_told_in_one_line_from_any_process(tmp_path: Path, workers: int) -> None:
    images = read(tmp_path)
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    loader = DetectionLoader(images, batch_size=1, shuffle=False, workers=workers)
    iterator = iter(loader)
    assert [next(iterator).index.item() for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match=r"b\.png cannot be decoded") as told:
        next(iterator)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 0}, "batch_size=0: give a whole number of at least 1"),
        (
            {"batch_size": 24, "drop_last": True},
            "batch_size=24 with drop_last leaves no batch of 2",
        ),
        ({"workers": -1}, "workers=-1: give a whole number of at least 0"),
    ],
)
def test_options_out_of_range_are_refused(
    images: CocoSet, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        loader_of(images, **options)
