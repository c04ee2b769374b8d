import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.reference.crop_flip import crop_and_flip_slowly
from tests.support.runs import as_users_call
from torch import Tensor
from torchvision.transforms import functional as transforms

from rlkd.data import ImageSet, MemoryLoader
from rlkd.data.loaders.memory import check_flip
from rlkd.errors import UserError
from rlkd.types import Batch

MEAN = (0.5, 0.4, 0.3)
STD = (0.2, 0.25, 0.3)


def loader_of(images: ImageSet, **options: Any) -> MemoryLoader:
    defaults: dict[str, Any] = {
        "batch_size": 5,
        "mean": MEAN,
        "std": STD,
        "shuffle": True,
        "crop_padding": 1,
        "flip": True,
        "seed": 3,
    }
    return MemoryLoader(images, **(defaults | options))


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch.index, other.index)
        assert torch.equal(batch.target, other.target)
        assert torch.equal(batch.image, other.image)
        assert (batch.strong is None) == (other.strong is None)
        if batch.strong is not None and other.strong is not None:
            assert torch.equal(batch.strong, other.strong)


def test_images_are_normalised_as_torchvision_does(images: ImageSet) -> None:
    loader = loader_of(images, shuffle=False, crop_padding=0, flip=False, batch_size=23)
    (batch,) = list(loader)
    expected = transforms.normalize(images.image / 255, list(MEAN), list(STD))
    torch.testing.assert_close(batch.image, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(batch.index, torch.arange(23))
    assert torch.equal(batch.target, images.target)


def test_an_epoch_visits_every_row_once_in_another_order(images: ImageSet) -> None:
    batches = list(loader_of(images))
    order = torch.cat([batch.index for batch in batches])
    assert [len(batch.index) for batch in batches] == [5, 5, 5, 5, 3]
    assert torch.equal(order.sort().values, torch.arange(23))
    assert not torch.equal(order, torch.arange(23))
    assert torch.equal(torch.cat([batch.target for batch in batches]), images.target[order])


def test_each_image_is_a_crop_of_its_own_row(images: ImageSet) -> None:
    ways = list(itertools.product(range(3), range(3), (False, True)))
    offset = torch.tensor([[top, left] for top, left, _ in ways])
    flip = torch.tensor([mirrored for _, _, mirrored in ways])
    for batch in loader_of(images, mean=(0.0,) * 3, std=(1.0,) * 3):
        pixels = (batch.image * 255).round().to(torch.uint8)
        for row, found in zip(batch.index, pixels, strict=True):
            repeated = images.image[row].expand(len(ways), 3, 6, 6)
            crops = crop_and_flip_slowly(repeated, offset, flip, crop_padding=1)
            assert (crops == found).flatten(1).all(dim=1).any()


def test_each_image_of_a_batch_is_augmented_by_itself(images: ImageSet) -> None:
    alike = images.select(torch.zeros(23).long())
    loader = loader_of(alike, batch_size=23)
    loader.set_partners(torch.zeros(23).long())
    (batch,) = list(loader)
    # 23 draws of 18 ways show 13 of them on average, with a standard deviation of 1.5.
    assert len(batch.image.flatten(1).unique(dim=0)) > 7
    assert len(loader.partner_batch(batch).image.flatten(1).unique(dim=0)) > 7


def test_an_epoch_is_the_same_whatever_was_iterated_before(images: ImageSet) -> None:
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
def test_epochs_and_seeds_differ_in_order_and_in_crops(images: ImageSet, change: str) -> None:
    first = loader_of(images, batch_size=23)
    second = loader_of(images, batch_size=23, seed=4 if change == "seed" else 3)
    second.set_epoch(1 if change == "epoch" else 0)
    ((one,), (other,)) = list(first), list(second)
    assert not torch.equal(one.index, other.index)
    assert not torch.equal(one.image[one.index.argsort()], other.image[other.index.argsort()])


def test_start_at_resumes_within_an_epoch_and_only_once(images: ImageSet) -> None:
    whole = list(loader_of(images))
    resumed = loader_of(images)
    resumed.start_at(3)
    assert len(resumed) == 5
    assert_same(list(resumed), whole[3:])
    assert_same(list(resumed), whole)


def test_start_at_the_end_of_an_epoch_yields_nothing(images: ImageSet) -> None:
    loader = loader_of(images)
    loader.start_at(5)
    assert list(loader) == []


@pytest.mark.parametrize("batch", [-1, 6])
def test_start_beyond_the_epoch_is_refused(images: ImageSet, batch: int) -> None:
    with pytest.raises(UserError, match=f"batch {batch} of an epoch of 5"):
        loader_of(images).start_at(batch)


def test_drop_last_leaves_out_the_batch_that_is_not_full(images: ImageSet) -> None:
    loader = loader_of(images, drop_last=True)
    assert len(loader) == 4
    assert [len(batch.index) for batch in loader] == [5, 5, 5, 5]


def test_channels_last_changes_the_strides_and_not_the_values(images: ImageSet) -> None:
    last = list(loader_of(images, memory_format=torch.channels_last))
    assert all(batch.image.is_contiguous(memory_format=torch.channels_last) for batch in last)
    assert_same(last, list(loader_of(images)))


def test_a_partner_batch_holds_the_partners_rows_and_row_0_for_none(images: ImageSet) -> None:
    loader = loader_of(images, crop_padding=0, flip=False)
    loader.set_partners((torch.arange(23) + 2).where(torch.arange(23) < 20, -1))
    for batch in loader:
        partner = loader.partner_batch(batch)
        expected = torch.tensor([row + 2 if row < 20 else 0 for row in batch.index.tolist()])
        assert torch.equal(partner.index, expected)
        assert torch.equal(partner.target, images.target[expected])
        plain = transforms.normalize(images.image[expected] / 255, list(MEAN), list(STD))
        torch.testing.assert_close(partner.image, plain, rtol=1e-5, atol=1e-5)


def test_partners_are_augmented_by_a_repeatable_draw_of_their_own(images: ImageSet) -> None:
    loader, other = loader_of(images, shuffle=False), loader_of(images, shuffle=False)
    loader.set_partners(torch.arange(23))
    other.set_partners(torch.arange(23))
    batches = list(loader)
    partners = [loader.partner_batch(batch) for batch in batches]
    backwards = [other.partner_batch(batch) for batch in reversed(batches)]
    assert_same(partners, backwards[::-1])
    own = torch.cat([batch.image for batch in batches])
    assert not torch.equal(torch.cat([partner.image for partner in partners]), own)
    loader.set_epoch(1)
    assert not torch.equal(loader.partner_batch(batches[0]).image, partners[0].image)


def test_partners_must_be_rows(images: ImageSet) -> None:
    loader = loader_of(images)
    batch = next(iter(loader))
    with pytest.raises(ValueError, match="set_partners first"):
        loader.partner_batch(batch)
    with pytest.raises(ValueError, match="22 partners for 23 rows"):
        loader.set_partners(torch.arange(22))
    with pytest.raises(ValueError, match="-1 to 22"):
        loader.set_partners(torch.arange(23) + 1)
    with pytest.raises(ValueError, match="-1 to 22"):
        loader.set_partners(torch.arange(23) - 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 24, "drop_last": True}, "no batch of 23 images"),
        ({"crop_padding": -1}, "crop_padding=-1"),
        ({"mean": (0.5,)}, "give 3 numbers"),
        ({"std": (0.5, 0.5, 0.0)}, "std above 0"),
    ],
)
def test_options_out_of_range_are_refused(
    images: ImageSet, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        loader_of(images, **options)


def test_select_keeps_the_order_given(images: ImageSet) -> None:
    chosen = images.select(torch.tensor([4, 2]))
    assert len(chosen) == 2
    assert chosen.num_classes == 3
    assert torch.equal(chosen.image, torch.stack([images.image[4], images.image[2]]))
    assert chosen.target.tolist() == [1, 2]
    assert chosen.class_names == images.class_names


@pytest.mark.parametrize("label", [3, -1, 255])
def test_the_first_label_out_of_range_is_named_with_its_row(images: ImageSet, label: int) -> None:
    target = images.target.clone()
    target[[4, 9]] = label
    with pytest.raises(UserError, match=rf"row 4 of the images has label {label}, not 0 to 2: fix"):
        replace(images, target=target)


def test_labels_at_both_ends_of_the_range_and_no_labels_at_all_are_taken(images: ImageSet) -> None:
    ends = replace(images, target=torch.tensor([0, 2]), image=images.image[:2])
    assert ends.target.tolist() == [0, 2]
    assert len(images.select(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize("target", [torch.eye(3), torch.eye(3).long(), torch.zeros(3)])
def test_targets_that_are_not_one_class_an_image_are_refused(target: Tensor) -> None:
    image = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    with as_users_call(), pytest.raises(UserError, match=r"not one class an image: .*multi-hot"):
        ImageSet(image, target, ("a", "b", "c"))


def test_an_alternating_flip_mirrors_each_image_in_every_other_epoch(images: ImageSet) -> None:
    many = images.select(torch.arange(23).repeat(20))
    loader = loader_of(many, flip="alternating", batch_size=460)
    random = loader_of(many, flip=True, batch_size=460)
    flips: list[Tensor] = []
    for epoch in range(4):
        loader.set_epoch(epoch)
        random.set_epoch(epoch)
        (batch,), (other,) = loader, random
        assert torch.equal(batch.index, other.index)
        assert batch.view is not None
        assert other.view is not None
        assert torch.equal(batch.view % 9, other.view % 9)  # the crops are those of any flip
        flips.append((batch.view >= 9)[batch.index.argsort()])
    assert torch.equal(flips[0], flips[2])
    assert torch.equal(flips[1], flips[3])
    assert torch.equal(flips[0], ~flips[1])
    assert 0.4 < flips[0].float().mean() < 0.6
    again = loader_of(many, flip="alternating", batch_size=460, seed=4)
    (batch,) = again
    assert batch.view is not None
    assert not torch.equal((batch.view >= 9)[batch.index.argsort()], flips[0])


def test_a_way_to_flip_that_is_none_is_refused() -> None:
    with as_users_call():
        for flip in ("often", "true", 1, None):
            with pytest.raises(UserError, match=rf"data\.flip={flip}: give true, false or alt"):
                check_flip(flip)


def test_a_loader_that_peeks_has_the_next_batch_at_hand(images: ImageSet) -> None:
    plain, peeking = loader_of(images), loader_of(images)
    peeking.peeks = True
    for epoch, start in ((0, 0), (1, 2)):
        for loader in (plain, peeking):
            loader.set_epoch(epoch)
            loader.start_at(start)
        expected, given, upcoming = list(plain), [], []
        for batch in peeking:
            given.append(batch)
            upcoming.append(peeking.upcoming)
        assert_same(given, expected)
        assert upcoming.pop() is None
        assert_same(upcoming, expected[1:])
    assert plain.upcoming is None
