"""Each image that a loader makes is known by its row and its view, and is made again of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.streams import LAYOUTS, loader_of

from rlkd.data import BatchLoader, ImageSet, MemoryLoader, StreamSet
from rlkd.errors import UserError
from rlkd.exploration.mixup import mix


def in_memory(images: ImageSet, **options: Any) -> MemoryLoader:
    given: dict[str, Any] = {"batch_size": 5, "shuffle": True, "crop_padding": 2, "flip": True}
    return MemoryLoader(images, mean=(0.5,) * 3, std=(0.2,) * 3, **(given | options))


def assert_made_again(loader: BatchLoader, epochs: int) -> set[int]:
    """See that every image of some epochs is made again of its row and view; return the views."""
    seen = set[int]()
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            assert batch.view is not None
            (again,) = loader.batches_of([(batch.index, batch.view)])
            assert torch.equal(again.image, batch.image)
            assert torch.equal(again.index, batch.index)
            assert again.view is not None
            assert torch.equal(again.view, batch.view)
            seen.update(batch.view.tolist())
    return seen


def test_crops_and_flips_in_memory_have_as_many_numbers_as_there_are(images: ImageSet) -> None:
    loader = in_memory(images)
    assert loader.views == 5 * 5 * 2
    assert assert_made_again(loader, 30) == set(range(50))
    every = [(torch.zeros(50, dtype=torch.int64), torch.arange(50))]
    (batch,) = in_memory(images).batches_of(every)
    assert len({image.numpy().tobytes() for image in batch.image}) == 50
    assert in_memory(images, flip=False).views == 25
    assert assert_made_again(in_memory(images, flip=False), 20) == set(range(25))
    assert in_memory(images, flip=False, crop_padding=0).views == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_streamed_images_have_the_views_that_were_asked_for(tmp_path: Path, layout: str) -> None:
    loader = loader_of(LAYOUTS[layout](tmp_path, views=3).train)
    assert loader.views == 3
    assert assert_made_again(loader, 8) == {0, 1, 2}
    rows = torch.zeros(3, dtype=torch.int64)
    (batch,) = loader.batches_of([(rows, torch.arange(3))])
    assert len({image.numpy().tobytes() for image in batch.image}) == 3


def test_views_are_those_of_any_seed_and_any_part_of_a_set(tmp_path: Path) -> None:
    whole = LAYOUTS["folder"](tmp_path, views=4).train
    assert isinstance(whole, StreamSet)
    rows, view = torch.tensor([3, 7, 20]), torch.tensor([1, 0, 3])
    (first,) = loader_of(whole, seed=1).batches_of([(rows, view)])
    part = loader_of(whole.select(rows), seed=2)
    (second,) = part.batches_of([(torch.arange(3), view)])
    assert torch.equal(first.image, second.image)


def test_epochs_of_numbered_views_differ_and_no_views_means_no_end_of_them(tmp_path: Path) -> None:
    images = LAYOUTS["folder"](tmp_path, views=100).train
    assert isinstance(images, StreamSet)

    def views_of(loader: BatchLoader, epoch: int) -> list[int]:
        loader.set_epoch(epoch)
        given = torch.cat([batch.view for batch in loader if batch.view is not None])
        order = torch.cat([batch.index for batch in loader])
        return given[order.argsort()].tolist()

    first, second = (views_of(loader_of(images), epoch) for epoch in (0, 1))
    assert first != second
    assert first == views_of(loader_of(images), 0)
    assert first != views_of(loader_of(images, seed=4), 0)
    endless = loader_of(replace(images, view_count=None))
    assert endless.views is None
    assert all(batch.view is None for batch in endless)


def test_a_mixed_image_is_no_view(images: ImageSet) -> None:
    batch = next(iter(in_memory(images)))
    chosen = torch.tensor([True, False, False, True, False])
    mixed = mix(batch, batch, chosen, weight=0.7, num_classes=3)
    assert batch.view is not None
    assert mixed.view is not None
    assert mixed.view.tolist() == [-1, *batch.view[1:3].tolist(), -1, int(batch.view[4])]


@pytest.mark.parametrize("views", [0, -1, 10**9])
def test_a_number_of_views_that_is_none_is_refused(tmp_path: Path, views: int) -> None:
    with pytest.raises(UserError, match=r"data\.views"):
        LAYOUTS["folder"](tmp_path, views=views)


def test_images_are_recognised_by_what_they_show(images: ImageSet) -> None:
    digests = images.digests()
    assert len(set(digests)) == 23
    assert {len(each) for each in digests} == {8}
    rows = torch.tensor([5, 2])
    assert images.select(rows).digests() == [digests[5], digests[2]]
    other = images.image.clone()
    other[5, 0, 0, 0] ^= 1
    assert replace(images, image=other).digests()[5] != digests[5]
