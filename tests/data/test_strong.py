"""The strong view, against torchvision's AutoAugment, image by image."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from tests.data.test_memory import MEAN, STD, assert_same, loader_of
from tests.reference.crop_flip import crop_and_flip_slowly
from torch import Tensor
from torchvision.transforms.v2 import AutoAugment, AutoAugmentPolicy

from rlkd.data import ImageSet
from rlkd.data.strong import StrongAugmentation, auto_augment, strong_view
from rlkd.errors import UserError


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def drawn(count: int, *, crop_padding: int = 0, seed: int = 0) -> StrongAugmentation:
    generator = torch.Generator().manual_seed(seed)
    return StrongAugmentation.draw(
        count, crop_padding=crop_padding, flip=crop_padding > 0, generator=generator
    )


class Coin:
    """Stands for `torch.rand(())`: falls as told, then heads, and keeps the probability of it."""

    def __init__(self, told: tuple[bool, ...]) -> None:
        self.told, self.fell, self.probability = told, (), 1.0

    def __le__(self, probability: float) -> bool:
        place = len(self.fell)
        heads = self.told[place] if place < len(self.told) else True
        self.fell = (*self.fell, heads)
        self.probability *= probability if heads else 1 - probability
        return heads


def outcomes_of_torchvision(image: Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[bytes, float]:
    """Every image that AutoAugment can make of one, with its probability."""
    transform = AutoAugment(AutoAugmentPolicy.CIFAR10)
    probability: dict[bytes, float] = defaultdict(float)
    for policy in range(25):
        to_visit: list[tuple[bool, ...]] = [()]
        while to_visit:
            told = to_visit.pop()
            coin = Coin(told)
            with monkeypatch.context() as patched:
                patched.setattr(torch, "randint", lambda *_, policy=policy: torch.tensor(policy))
                patched.setattr(torch, "rand", lambda *_, coin=coin: coin)
                made = transform(image)
            probability[made.numpy().tobytes()] += coin.probability / 25
            to_visit += [(*coin.fell[:place], False) for place in range(len(told), len(coin.fell))]
    return {made: share for made, share in probability.items() if share > 0}


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_becomes_what_torchvision_makes_of_it_as_often(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, draws = noise(channels, 13, 11), 200_000
    expected = outcomes_of_torchvision(image, monkeypatch)
    assert sum(expected.values()) == pytest.approx(1)
    assert len(expected) > 60
    operation, count = drawn(draws).operation.unique(dim=0, return_counts=True)
    made = auto_augment(image.expand(len(operation), -1, -1, -1), operation)
    found: dict[bytes, int] = defaultdict(int)
    for one, times in zip(made, count.tolist(), strict=True):
        found[one.numpy().tobytes()] += times
    assert found.keys() <= expected.keys()
    for outcome, share in expected.items():
        deviation = (draws * share * (1 - share)) ** 0.5
        assert abs(found[outcome] - draws * share) < 5 * deviation


def test_an_image_is_augmented_alike_in_a_batch_and_alone() -> None:
    image, augmentation = noise(200, 3, 12, 12), drawn(200)
    together = auto_augment(image, augmentation.operation)
    for row in range(200):
        alone = auto_augment(image[row : row + 1], augmentation.operation[row : row + 1])
        assert torch.equal(alone[0], together[row])


def test_the_crop_and_the_flip_come_first() -> None:
    image, augmentation = noise(50, 3, 8, 8), drawn(50, crop_padding=2)
    crop = augmentation.crop
    cropped = crop_and_flip_slowly(image, crop.offset, crop.flip, crop_padding=2)
    expected = auto_augment(cropped, augmentation.operation)
    assert torch.equal(strong_view(image, augmentation, crop_padding=2), expected)
    none = replace(augmentation, operation=torch.zeros(50, 2).long())
    assert torch.equal(strong_view(image, none, crop_padding=2), cropped)


def test_select_keeps_crop_and_operations_together() -> None:
    augmentation, rows = drawn(20, crop_padding=2), torch.tensor([7, 3])
    chosen = augmentation.select(rows)
    assert torch.equal(chosen.operation, augmentation.operation[rows])
    assert torch.equal(chosen.crop.offset, augmentation.crop.offset[rows])
    assert torch.equal(chosen.crop.flip, augmentation.crop.flip[rows])


def strong_of(image: Tensor | None) -> Tensor:
    assert image is not None
    return image


def test_the_first_view_is_the_same_to_the_bit_with_and_without_the_second(
    images: ImageSet,
) -> None:
    plain, paired = loader_of(images), loader_of(images, strong_view=True)
    for epoch in (0, 1):
        plain.set_epoch(epoch)
        paired.set_epoch(epoch)
        without = list(plain)
        assert all(batch.strong is None for batch in without)
        assert_same([replace(batch, strong=None) for batch in paired], without)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_strong_view_is_another_image_normalised_alike(
    images: ImageSet, memory_format: torch.memory_format
) -> None:
    mean, std = (torch.tensor(column)[:, None, None] for column in (MEAN, STD))
    for batch in loader_of(images, strong_view=True, memory_format=memory_format):
        strong = strong_of(batch.strong)
        assert strong.shape == batch.image.shape
        assert strong.dtype == torch.float32
        assert strong.is_contiguous(memory_format=memory_format)
        assert not torch.equal(strong, batch.image)
        pixels = (strong * std + mean) * 255
        torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)
        assert 0 <= pixels.round().min() <= pixels.round().max() <= 255


def test_each_strong_view_is_cropped_by_a_draw_of_its_own(images: ImageSet) -> None:
    alike = images.select(torch.zeros(400).long())
    (batch,) = list(loader_of(alike, batch_size=400, strong_view=True))
    crops = batch.image.flatten(1).unique(dim=0)  # 2 flips of 9 corners: all 18 are met
    assert len(crops) == 18
    strong = strong_of(batch.strong).flatten(1)
    unchanged = (strong[:, None] == crops).all(dim=2).any(dim=1)
    # Of 36 pixels of noise AutoAugment leaves some 40 % alone (too few to equalise): about 160
    # rows, of which one in 18, about 9, meets the first view's crop and flip by chance.
    assert unchanged.sum() > 100
    same = (strong == batch.image.flatten(1)).all(dim=1)
    assert same.sum() < 30
    assert len(strong[unchanged].unique(dim=0)) == 18


def test_a_strong_view_belongs_to_its_row_and_not_to_its_place(images: ImageSet) -> None:
    (whole,) = list(loader_of(images, batch_size=23, strong_view=True))
    inverse = whole.index.argsort()
    for batch in loader_of(images, strong_view=True):
        expected = strong_of(whole.strong)[inverse[batch.index]]
        assert torch.equal(strong_of(batch.strong), expected)


def test_without_crop_and_flip_the_strong_view_has_neither(images: ImageSet) -> None:
    alike = images.select(torch.zeros(400).long())
    loader = loader_of(alike, batch_size=400, strong_view=True, crop_padding=0, flip=False)
    (batch,) = list(loader)
    same = (strong_of(batch.strong) == batch.image).flatten(1).all(dim=1)
    assert 100 < same.sum() < 300  # with crops of their own, about 9 would be


def test_strong_views_depend_on_seed_and_epoch_alone(images: ImageSet) -> None:
    travelled = loader_of(images, strong_view=True)
    for epoch in (0, 7, 1):
        travelled.set_epoch(epoch)
        next(iter(travelled))
    torch.rand(3)
    travelled.set_epoch(2)
    fresh = loader_of(images, strong_view=True)
    fresh.set_epoch(2)
    torch.manual_seed(99)
    assert_same(list(travelled), list(fresh))
    assert_same(list(travelled), list(fresh))


@pytest.mark.parametrize("change", ["epoch", "seed"])
def test_epochs_and_seeds_differ_in_their_strong_views(images: ImageSet, change: str) -> None:
    options = {"batch_size": 23, "strong_view": True, "crop_padding": 0, "flip": False}
    first = loader_of(images, shuffle=False, **options)
    second = loader_of(images, shuffle=False, seed=4 if change == "seed" else 3, **options)
    second.set_epoch(1 if change == "epoch" else 0)
    ((one,), (other,)) = list(first), list(second)
    assert torch.equal(one.image, other.image)
    assert not torch.equal(strong_of(one.strong), strong_of(other.strong))


def test_strong_views_are_the_same_in_an_epoch_that_is_resumed(images: ImageSet) -> None:
    whole = list(loader_of(images, strong_view=True))
    resumed = loader_of(images, strong_view=True)
    resumed.start_at(3)
    assert_same(list(resumed), whole[3:])


def test_strong_views_leave_the_global_generator_alone(images: ImageSet) -> None:
    before = torch.get_rng_state()
    list(loader_of(images, strong_view=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_partners_are_the_same_with_strong_views(images: ImageSet) -> None:
    plain, paired = loader_of(images), loader_of(images, strong_view=True)
    for loader in (plain, paired):
        loader.set_partners((torch.arange(23) + 2) % 23)
    assert_same(
        [paired.partner_batch(batch) for batch in paired],
        [plain.partner_batch(batch) for batch in plain],
    )


def test_grey_images_have_strong_views_and_images_of_two_channels_none(images: ImageSet) -> None:
    def of_channels(count: int) -> ImageSet:
        return replace(images, image=images.image[:, :count])

    grey = {"mean": (0.5,), "std": (0.2,), "strong_view": True}
    assert all(batch.strong is not None for batch in loader_of(of_channels(1), **grey))
    with pytest.raises(UserError, match=r"1 or 3 channels .* these have 2: convert them"):
        loader_of(of_channels(2), mean=(0.5, 0.4), std=(0.2, 0.3), strong_view=True)
    loader_of(of_channels(2), mean=(0.5, 0.4), std=(0.2, 0.3))
