import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.streams import COUNT, LAYOUTS, encoded, in_folder, in_tar, loader_of, numbers
from tests.data.test_memory import assert_same
from tests.data.test_memory import loader_of as memory_loader_of
from tests.marks import but_long

from rlkd.data import Dataset, ImageSet, StreamSet, in_memory
from rlkd.distributed import Rank
from rlkd.errors import UserError
from rlkd.types import Batch

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
BOTH = [Rank(0, 2), Rank(1, 2)]


def joined(parts: list[list[Batch]]) -> list[Batch]:
    """Each batch of one process out of those of all ranks."""
    return [
        Batch(*(torch.cat(tensors) for tensors in zip(*map(fields, batch), strict=True)))
        for batch in zip(*parts, strict=True)
    ]


def fields(batch: Batch) -> tuple[Any, ...]:
    first = batch.image, batch.target, batch.index
    return first if batch.strong is None else (*first, batch.strong)


def counted(batches: list[Batch]) -> Counter[int]:
    return Counter(row for batch in batches for row in batch.index.tolist())


@pytest.mark.parametrize("layout", but_long(LAYOUTS, "parquet"))
def test_two_ranks_of_two_workers_see_every_row_once_before_and_after_a_resumption(
    layout: str, tmp_path: Path
) -> None:
    images = LAYOUTS[layout](tmp_path, workers=2).train
    seen: Counter[int] = Counter()
    resumed: Counter[int] = Counter()
    for part in BOTH:
        loader = loader_of(images, part=part)
        loader.set_epoch(5)
        whole = list(loader)
        seen += counted(whole)
        again = loader_of(images, part=part)
        again.set_epoch(5)
        again.start_at(2)
        rest = list(again)
        assert_same(rest, whole[2:])
        resumed += counted(whole[:2]) + counted(rest)
    once = Counter(range(COUNT))
    assert seen == resumed == once


@pytest.mark.parametrize("layout", but_long(LAYOUTS, "folder"))
def test_ranks_together_have_the_batches_of_one_process_bit_for_bit(
    layout: str, tmp_path: Path
) -> None:
    images = LAYOUTS[layout](tmp_path, workers=1).train
    alone = list(loader_of(images, strong_view=True))
    together = [list(loader_of(images, strong_view=True, part=part)) for part in BOTH]
    assert_same(joined(together), alone)
    passes = list(loader_of(images, strong_view=True, passes=3))
    assert len(passes) == 12
    assert_same(joined([passes[0::3], passes[1::3], passes[2::3]]), alone)


def test_ranks_share_images_in_memory_in_the_same_way(images: ImageSet) -> None:
    images = images.select(torch.arange(20))
    alone = list(memory_loader_of(images, batch_size=4, strong_view=True))
    together = [
        list(memory_loader_of(images, batch_size=4, strong_view=True, part=part)) for part in BOTH
    ]
    assert_same(joined(together), alone)
    plain = [memory_loader_of(images, batch_size=3, shuffle=False, part=part) for part in BOTH]
    assert counted([batch for loader in plain for batch in loader]) == Counter(range(20))


@each_layout
def test_batches_are_the_same_with_any_number_of_workers(layout: str, tmp_path: Path) -> None:
    first = loader_of(LAYOUTS[layout](tmp_path, workers=0).train)
    second = loader_of(LAYOUTS[layout](tmp_path, workers=3).train)
    partner = (torch.arange(COUNT) + 5) % COUNT
    for loader in (first, second):
        loader.set_partners(partner.where(torch.arange(COUNT) % 2 == 0, -1))
    for one, other in zip(first, second, strict=True):
        assert_same([one], [other])
        assert_same([first.partner_batch(one)], [second.partner_batch(other)])


@each_layout
def test_each_image_comes_with_its_own_class_in_training_and_in_evaluation(
    layout: str, tmp_path: Path
) -> None:
    dataset = LAYOUTS[layout](tmp_path)
    assert dataset.class_names == ("a", "b", "c")
    for images, shuffle in ((dataset.train, True), (dataset.test, False)):
        batches = list(loader_of(images, shuffle=shuffle))
        found = [number for batch in batches for number in numbers(batch.image)]
        assert sorted(found) == list(range(COUNT))
        target = torch.cat([batch.target for batch in batches])
        assert target.tolist() == [number % 3 for number in found]
        index = torch.cat([batch.index for batch in batches])
        assert torch.equal(images.target[index], target)


@each_layout
def test_epochs_and_seeds_have_orders_of_their_own(layout: str, tmp_path: Path) -> None:
    images = LAYOUTS[layout](tmp_path).train
    assert isinstance(images, StreamSet)
    orders = [images.order(seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert torch.equal(orders[0], images.order(seed=0, epoch=0))
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(COUNT))
    assert len({tuple(order.tolist()) for order in orders}) == 3


def test_a_shuffled_epoch_reads_from_a_few_shards_at_a_time(tmp_path: Path) -> None:
    images = in_tar(tmp_path).train
    assert isinstance(images, StreamSet)
    starts = set[int]()
    for epoch in range(20):
        shard = images.order(seed=0, epoch=epoch) // 6  # shards of 6 images, two at a time
        halves = [set(half.tolist()) for half in shard.split(12)]
        assert [len(half) for half in halves] == [2, 2]
        assert shard[:12].tolist() != sorted(shard[:12].tolist())
        starts |= halves[0]
    assert starts == {0, 1, 2, 3}


def test_an_image_is_augmented_anew_in_each_epoch(tmp_path: Path) -> None:
    dataset = in_folder(tmp_path)
    write = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    first = sorted((tmp_path / "train" / "a").iterdir())[0]
    Image.fromarray(write).save(first)
    seen: list[bytes] = []
    for epoch in (0, 1, 0):
        loader = loader_of(dataset.train.select(torch.arange(1)), batch_size=1, strong_view=True)
        loader.set_epoch(epoch)
        (batch,) = list(loader)
        assert batch.strong is not None
        seen += [batch.image.numpy().tobytes(), batch.strong.numpy().tobytes()]
    assert seen[:2] == seen[4:]
    assert len(set(seen[:4])) == 4


def test_nothing_before_the_start_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = in_folder(tmp_path).train
    assert isinstance(images, StreamSet)
    read: list[int] = []
    source, encoded = type(images.source), type(images.source).encoded

    def spy(self: Any, row: int) -> bytes:
        read.append(row)
        return encoded(self, row)

    monkeypatch.setattr(source, "encoded", spy)
    loader = loader_of(images)
    loader.start_at(3)
    (batch,) = list(loader)
    assert read == batch.index.tolist()


@pytest.mark.parametrize("peeks", [False, True])
def test_partners_come_with_their_batch_augmented_by_a_draw_of_their_own(
    tmp_path: Path, peeks: bool
) -> None:
    images = in_folder(tmp_path).train
    loader = loader_of(images)
    loader.peeks = peeks
    partner = (torch.arange(COUNT) + 7) % COUNT
    partner[::2] = -1
    loader.set_partners(partner)
    content = {row: number for row, number in enumerate(in_order(images))}
    for batch in loader:
        found = loader.partner_batch(batch)
        expected = torch.where(partner[batch.index] < 0, batch.index, partner[batch.index])
        assert torch.equal(found.index, expected)
        assert torch.equal(found.target, images.target[expected])
        assert numbers(found.image) == [content[row] for row in expected.tolist()]
        alone = partner[batch.index] < 0
        assert torch.equal(found.image[alone], batch.image[alone])
    with pytest.raises(ValueError, match="given last"):
        loader.partner_batch(Batch(batch.image, batch.target, batch.index.clone()))
    loader.set_partners(None)
    with pytest.raises(ValueError, match="set_partners first"):
        loader.partner_batch(batch)


def in_order(images: Any) -> list[int]:
    return [n for batch in loader_of(images, shuffle=False) for n in numbers(batch.image)]


@pytest.mark.parametrize("workers", [0, 1])
def test_every_row_and_every_partner_is_cropped_by_a_draw_of_its_own(
    tmp_path: Path, workers: int
) -> None:
    images = in_folder(tmp_path, workers=workers).train
    for row in range(COUNT):  # one image in all rows: only the draws tell them apart
        Path(images.place(row)).write_bytes(encoded(7))  # pyright: ignore
    loader = loader_of(images, strong_view=True)
    loader.set_partners((torch.arange(COUNT) + 7) % COUNT)
    seen: list[bytes] = []
    for batch in loader:
        assert batch.strong is not None
        for views in (batch.image, batch.strong, loader.partner_batch(batch).image):
            seen += [view.numpy().tobytes() for view in views]
    assert len(seen) == len(set(seen)) == 3 * COUNT


def test_a_process_that_is_killed_is_told_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = in_folder(tmp_path, workers=1).train
    assert isinstance(images, StreamSet)
    own = os.getpid()

    def die(self: Any, row: int) -> bytes:
        assert os.getpid() != own
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    monkeypatch.setattr(type(images.source), "encoded", die)
    with pytest.raises(UserError, match=r"ended: .*--shm-size, or lower data\.workers"):
        list(loader_of(images))


def test_the_global_generators_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    # Of random there is no saying here: the checks of types in tests draw from it.
    before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    for workers in (0, 2):
        list(loader_of(in_folder(tmp_path, workers=workers).train, strong_view=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_a_set_goes_into_memory_as_an_evaluation_sees_it(tmp_path: Path) -> None:
    dataset: Dataset = in_folder(tmp_path, workers=2)
    held = in_memory(dataset.test)
    assert isinstance(held, ImageSet)
    batches = list(loader_of(dataset.test, shuffle=False))
    pixels = torch.cat([batch.image for batch in batches])
    assert torch.equal((pixels * 255).round().to(torch.uint8), held.image)
    assert held.image.shape == (COUNT, 3, 8, 8)
    assert torch.equal(held.target, dataset.test.target)
    assert held.class_names == dataset.class_names
