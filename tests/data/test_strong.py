"""The strong view, against Pillow, image by image."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from tests.data.test_memory import MEAN, STD, assert_same, loader_of
from tests.reference.crop_flip import crop_and_flip_slowly
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from rlkd.data import ImageSet
from rlkd.data.transforms import randaugment as strong
from rlkd.data.transforms.randaugment import (
    OPERATIONS,
    StrongAugmentation,
    cut_out,
    rand_augment,
    strong_view,
)
from rlkd.errors import UserError


def look_up(picture: Image.Image, *matrix: float) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix)


PILLOW: dict[str, tuple[float, float, Callable[[Image.Image, float], Image.Image]]] = {
    "auto_contrast": (0, 1, lambda image, _: ImageOps.autocontrast(image)),
    "brightness": (0.05, 0.95, lambda image, to: ImageEnhance.Brightness(image).enhance(to)),
    "color": (0.05, 0.95, lambda image, to: ImageEnhance.Color(image).enhance(to)),
    "contrast": (0.05, 0.95, lambda image, to: ImageEnhance.Contrast(image).enhance(to)),
    "equalize": (0, 1, lambda image, _: ImageOps.equalize(image)),
    "identity": (0, 1, lambda image, _: image),
    "posterize": (4, 8, lambda image, bits: ImageOps.posterize(image, int(bits))),
    "rotate": (-30, 30, lambda image, degrees: image.rotate(degrees)),
    "sharpness": (0.05, 0.95, lambda image, to: ImageEnhance.Sharpness(image).enhance(to)),
    "shear_x": (-0.3, 0.3, lambda image, by: look_up(image, 1, by, 0, 0, 1, 0)),
    "shear_y": (-0.3, 0.3, lambda image, by: look_up(image, 1, 0, 0, by, 1, 0)),
    "solarize": (0, 256, lambda image, level: ImageOps.solarize(image, level)),
    "translate_x": (-0.3, 0.3, lambda image, by: look_up(image, 1, 0, by * image.width, 0, 1, 0)),
    "translate_y": (-0.3, 0.3, lambda image, by: look_up(image, 1, 0, 0, 0, 1, by * image.height)),
}
"""What the public code calls for each operation, with the range of its strength."""


def by_pillow(image: Tensor, name: str, strength: float) -> Tensor:
    return pil_to_tensor(PILLOW[name][2](to_pil_image(image), strength))


def cut_out_by_pillow(image: Tensor, row: float, column: float, side: float) -> Tensor:
    _, height, width = image.shape
    pixels = side * width
    left = int(max(0, column * width - pixels / 2))
    top = int(max(0, row * height - pixels / 2))
    picture = to_pil_image(image)
    ImageDraw.Draw(picture).rectangle(
        (left, top, min(width, left + pixels), min(height, top + pixels)),
        fill=(125, 123, 114) if picture.mode == "RGB" else 121,
    )
    return pil_to_tensor(picture)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def pictures(channels: int, height: int, width: int) -> Tensor:
    """Noise, noise of few and of dark levels, one level, two levels and a slope; 24 in all."""
    many = noise(4, channels, height, width)
    slope = torch.linspace(0, 255, height * width).byte().view(height, width).expand_as(many)
    kinds = [many, many // 32 + 100, many // 5, torch.full_like(many, 77), many // 128 * 200, slope]
    return torch.cat(kinds)


def drawn(count: int, *, crop_padding: int = 0, seed: int = 0) -> StrongAugmentation:
    generator = torch.Generator().manual_seed(seed)
    return StrongAugmentation.draw(
        count, crop_padding=crop_padding, flip=crop_padding > 0, generator=generator
    )


@pytest.mark.parametrize("size", [(32, 32), (13, 11), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PILLOW)
def test_every_operation_makes_the_pixels_of_pillow(
    name: str, channels: int, size: tuple[int, int]
) -> None:
    lowest, highest, _ = PILLOW[name]
    image = pictures(channels, *size)
    share = torch.cat([torch.tensor([0.0, 0.5, 1.0]), torch.rand(21)])[torch.randperm(24)]
    strength = lowest + (highest - lowest) * share
    number = torch.full((24, 1), OPERATIONS.index(name))
    made = rand_augment(image, number, strength[:, None])
    expected = [by_pillow(one, name, to) for one, to in zip(image, strength.tolist(), strict=True)]
    assert torch.equal(made, torch.stack(expected))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_view_is_a_crop_then_two_operations_in_turn_then_a_cutout(channels: int) -> None:
    image, augmentation = noise(300, channels, 14, 12), drawn(300, crop_padding=2)
    crop = augmentation.crop
    expected = crop_and_flip_slowly(image, crop.offset, crop.flip, crop_padding=2)
    for row, one in enumerate(expected):
        for number, to in zip(augmentation.operation[row], augmentation.strength[row], strict=True):
            one = by_pillow(one, OPERATIONS[number], float(to))
        expected[row] = cut_out_by_pillow(one, *augmentation.cutout[row].tolist())
    assert torch.equal(strong_view(image, augmentation, crop_padding=2), expected)


@pytest.mark.parametrize(
    ("cutout", "rows", "columns"),
    [
        # Of 8 rows and 10 columns; the side in pixels is 10 times the share.
        # 0.5 * 8 - 1.5 = 2.5 and 0.5 * 10 - 1.5 = 3.5; from 2 to 5 and from 3 to 6.
        ((0.5, 0.5, 0.3), range(2, 6), range(3, 7)),
        # 1 - 2.5 and 1 - 2.5 lie outside: from 0 to 5 both, the square keeps its size.
        ((0.125, 0.1, 0.5), range(6), range(6)),
        # 7 - 1.75 = 5.25 and 9 - 1.75 = 7.25; from 5 and 7 to 8 and 10, beyond the image.
        ((0.875, 0.9, 0.35), range(5, 8), range(7, 10)),
        # 4 - 0.25 and 5 - 0.25; from 3 to 3.5 and from 4 to 4.5: one pixel.
        ((0.5, 0.5, 0.05), range(3, 4), range(4, 5)),
        ((0.5, 0.5, 0.0), range(0), range(0)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_cutout_fills_the_square_worked_out_by_hand(
    cutout: tuple[float, float, float], rows: range, columns: range, channels: int
) -> None:
    image, colour = noise(channels, 8, 10), (125, 123, 114) if channels == 3 else (121,)
    expected = image.clone()
    for channel, row in product(range(channels), rows):
        expected[channel, row, list(columns)] = colour[channel]
    assert torch.equal(cut_out(image[None], torch.tensor([cutout]))[0], expected)


def test_all_pairs_of_the_public_operations_are_drawn_equally_often() -> None:
    assert sorted(OPERATIONS) == sorted(PILLOW)
    pair = drawn(196_000).operation @ torch.tensor([14, 1])
    count = pair.bincount(minlength=196)
    assert len(count) == 196
    # 1,000 each with a standard deviation of 32.
    assert count.min() > 1000 - 5 * 32
    assert count.max() < 1000 + 5 * 32


def assert_uniform(value: Tensor, lowest: float, highest: float) -> None:
    assert lowest <= value.min() <= value.max() <= highest
    count = ((value - lowest) / (highest - lowest) * 10).long().clamp(max=9).bincount(minlength=10)
    deviation = math.sqrt(len(value) * 0.1 * 0.9)
    assert (count - len(value) / 10).abs().max() < 5 * deviation


def test_strengths_and_squares_are_drawn_uniformly_each_by_itself() -> None:
    augmentation = drawn(50_000)
    for step in range(2):
        number, strength = augmentation.operation[:, step], augmentation.strength[:, step]
        for name, (lowest, highest, _) in PILLOW.items():
            assert_uniform(strength[number == OPERATIONS.index(name)], lowest, highest)
    for column, highest in enumerate((1.0, 1.0, 0.5)):
        assert_uniform(augmentation.cutout[:, column], 0.0, highest)
    lowest, highest = (
        torch.tensor([PILLOW[name][end] for name in OPERATIONS])[augmentation.operation]
        for end in (0, 1)
    )
    share = (augmentation.strength - lowest) / (highest - lowest)
    together = torch.cat([share, augmentation.cutout, augmentation.operation], dim=1)
    # Correlations of independent draws have a standard deviation of 1 / sqrt(50,000).
    assert (together.T.corrcoef() - torch.eye(7)).abs().max() < 5 / math.sqrt(50_000)


def test_select_keeps_what_belongs_to_an_image_together() -> None:
    augmentation, rows = drawn(20, crop_padding=2), torch.tensor([7, 3])
    chosen = augmentation.select(rows)
    for field in ("operation", "strength", "cutout"):
        assert torch.equal(getattr(chosen, field), getattr(augmentation, field)[rows])
    assert torch.equal(chosen.crop.offset, augmentation.crop.offset[rows])
    assert torch.equal(chosen.crop.flip, augmentation.crop.flip[rows])


@pytest.fixture
def crops_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the crop and the flip as all that the strong view does."""
    monkeypatch.setattr(strong, "rand_augment", lambda image, *_: image)
    monkeypatch.setattr(strong, "cut_out", lambda image, _: image)


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
        second = strong_of(batch.strong)
        assert second.shape == batch.image.shape
        assert second.dtype == torch.float32
        assert second.is_contiguous(memory_format=memory_format)
        assert not torch.equal(second, batch.image)
        pixels = (second * std + mean) * 255
        torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)
        assert 0 <= pixels.round().min() <= pixels.round().max() <= 255


@pytest.mark.usefixtures("crops_alone")
def test_each_strong_view_is_cropped_by_a_draw_of_its_own(images: ImageSet) -> None:
    alike = images.select(torch.zeros(400).long())
    (batch,) = list(loader_of(alike, batch_size=400, strong_view=True))
    crops = batch.image.flatten(1).unique(dim=0)  # 2 flips of 9 corners: all 18 are met
    assert len(crops) == 18
    second = strong_of(batch.strong).flatten(1)
    assert torch.equal(second.unique(dim=0), crops)
    # One in 18 meets the first view's by chance: 22 with a standard deviation of 4.6.
    assert (second == batch.image.flatten(1)).all(dim=1).sum() < 22 + 5 * 4.6


def test_a_strong_view_belongs_to_its_row_and_not_to_its_place(images: ImageSet) -> None:
    (whole,) = list(loader_of(images, batch_size=23, strong_view=True))
    inverse = whole.index.argsort()
    for batch in loader_of(images, strong_view=True):
        expected = strong_of(whole.strong)[inverse[batch.index]]
        assert torch.equal(strong_of(batch.strong), expected)


@pytest.mark.usefixtures("crops_alone")
def test_without_crop_and_flip_the_strong_view_has_neither(images: ImageSet) -> None:
    for batch in loader_of(images, strong_view=True, crop_padding=0, flip=False):
        assert torch.equal(strong_of(batch.strong), batch.image)


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
