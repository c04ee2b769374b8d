"""The strong view of a batch: a crop and a flip of its own, RandAugment, then Cutout.

Images of a batch that meet the same kind of operation go through it together, each at its own
strength, so that the calls do not grow with the batch. The pixels are Pillow's, to the bit: places
are reckoned in its 16.16 fixed point, and blends are cut off, not rounded.

Source: the strong view in `mdistiller/dataset/cifar100.py` of what descends from the code of
Multi-Level Logit Distillation (Jin et al., CVPR 2023), alike in a public fork of it and in the code
of "Logit Standardization in Knowledge Distillation" (CVPR 2024) and of "Knowledge Distillation with
Refined Logits" (2024); the authors' own copy of that file was not at hand. Operations and ranges
are the RandAugment of Sohn et al., "FixMatch" (NeurIPS 2020), except that every image gets both
operations and that the 10 in their `RandAugment(2, 10)` is read nowhere. Grey images are ours: they
fare as in Pillow, where `color` leaves them alone, and Cutout fills with the colour's mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from rlkd.data.transforms.crop_flip import Augmentation, crop_and_flip

_STEPS = 2
_CUTOUT_SIDE = 0.5
_CUTOUT_COLOUR = (125, 123, 114)
_ONE = 1 << 16
"""One pixel in 16.16 fixed point."""


@dataclass(frozen=True, slots=True)
class StrongAugmentation:
    """How the strong view of each image is made; kept on the CPU, where a batch is planned."""

    crop: Augmentation
    """The crop and the flip, which come first."""
    operation: Int64[Tensor, "images 2"]
    """The two operations, as indices into `OPERATIONS`."""
    strength: Float[Tensor, "images 2"]
    """How far each goes, in its operation's range."""
    cutout: Float[Tensor, "images 3"]
    """Row and column of a point in shares of height and width, then a side in shares of width."""

    @classmethod
    def draw(
        cls, count: int, *, crop_padding: int, flip: bool, generator: torch.Generator
    ) -> "StrongAugmentation":
        """Draw two operations an image with replacement, and each number uniformly."""
        crop = Augmentation.draw(count, crop_padding=crop_padding, flip=flip, generator=generator)
        operation = torch.randint(len(OPERATIONS), (count, _STEPS), generator=generator)
        lowest, highest = _RANGE[operation].unbind(dim=2)
        share = torch.rand(count, _STEPS, generator=generator)
        cutout = torch.rand(count, 3, generator=generator)
        return cls(
            crop=crop,
            operation=operation,
            strength=lowest + (highest - lowest) * share,
            cutout=cutout * torch.tensor([1.0, 1.0, _CUTOUT_SIDE]),
        )

    def select(self, rows: Int64[Tensor, " rows"]) -> "StrongAugmentation":
        """Return the augmentation of some images."""
        return StrongAugmentation(
            crop=self.crop.select(rows),
            operation=self.operation[rows],
            strength=self.strength[rows],
            cutout=self.cutout[rows],
        )


def strong_view(
    image: UInt8[Tensor, "batch channels height width"],
    augmentation: StrongAugmentation,
    *,
    crop_padding: int,
) -> UInt8[Tensor, "batch channels height width"]:
    """Crop and flip each image, put it through its two operations, then cut a square out.

    Args:
        image: grey or RGB images in 0 to 255, on any device.
        augmentation: one an image.
        crop_padding: pixels added on each side before the crop.
    """
    cropped = crop_and_flip(image, augmentation.crop.to(image.device), crop_padding=crop_padding)
    changed = rand_augment(cropped, augmentation.operation, augmentation.strength)
    return cut_out(changed, augmentation.cutout)


def rand_augment(
    image: UInt8[Tensor, "batch channels height width"],
    operation: Int64[Tensor, "batch steps"],
    strength: Float[Tensor, "batch steps"],
) -> UInt8[Tensor, "batch channels height width"]:
    """Put each image through its operations, one step after the other.

    Args:
        image: grey or RGB images in 0 to 255, on any device.
        operation: indices into `OPERATIONS`, on the CPU.
        strength: of each operation, in its range, on the CPU.
    """
    for number, value in zip(operation.unbind(dim=1), strength.unbind(dim=1), strict=True):
        kind = _KIND[number]
        order = kind.argsort(stable=True)
        present, count = kind.unique(return_counts=True)
        sizes = count.tolist()
        groups = zip(
            image[order.to(image.device, non_blocking=True)].split(sizes),
            number[order].split(sizes),
            value[order].split(sizes),
            strict=True,
        )
        changed = [
            _CHANGES[one](*group) for one, group in zip(present.tolist(), groups, strict=True)
        ]
        image = torch.cat(changed)[order.argsort().to(image.device, non_blocking=True)]
    return image


def cut_out(
    image: UInt8[Tensor, "batch channels height width"], cutout: Float[Tensor, "batch 3"]
) -> UInt8[Tensor, "batch channels height width"]:
    """Fill a square of each image with one colour, or on grey images with its mean.

    The square's upper left corner lies half a side above and left of the drawn point, but within
    the image. From there it covers whole pixels, the one that the side ends in included: a side
    of 4.2 covers 5. The part outside the image is lost.

    Args:
        image: grey or RGB images in 0 to 255, on any device.
        cutout: row and column of a point in shares of height and width, then the side in shares
            of the width, 0 for no square; on the CPU.
    """
    channels, height, width = image.shape[1:]
    row, column, side = cutout.double().unbind(dim=1)
    side = side * width

    def covered(centre: Tensor, length: int) -> Bool[Tensor, "batch length"]:
        place = torch.arange(length)
        first = (centre * length - side / 2).clamp(min=0).floor()[:, None]
        inside = (place >= first) & (place <= first + side[:, None])
        return (inside & (side > 0)[:, None]).to(image.device, non_blocking=True)

    square = covered(row, height)[:, None, :, None] & covered(column, width)[:, None, None, :]
    colour = _CUTOUT_COLOUR if channels == 3 else (round(sum(_CUTOUT_COLOUR) / 3),)
    filled = torch.tensor(colour, dtype=image.dtype).to(image.device, non_blocking=True)
    return torch.where(square, filled[:, None, None], image)


def _keep(image: Tensor, _number: Tensor, _strength: Tensor) -> Tensor:
    return image


def _equalize(image: Tensor, _number: Tensor, _strength: Tensor) -> Tensor:
    return vision.equalize(image)


def _auto_contrast(image: Tensor, _number: Tensor, _strength: Tensor) -> Tensor:
    """Stretch each channel to 0 to 255, in double precision and cut off, as Pillow does."""
    lowest = image.amin(dim=(2, 3), keepdim=True).double()
    span = image.amax(dim=(2, 3), keepdim=True) - lowest
    # A number divided by a tensor is multiplied by the reciprocal, which rounds twice.
    scale = torch.full_like(span, 255) / span.clamp(min=1)
    stretched = (image * scale - lowest * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(span > 0, stretched, image)


def _posterize(image: Tensor, _number: Tensor, strength: Tensor) -> Tensor:
    """Keep the upper bits of each pixel, as many as the strength has whole ones."""
    mask = (256 - (256 >> strength.long())).to(torch.uint8)
    return image & mask.to(image.device, non_blocking=True)[:, None, None, None]


def _solarize(image: Tensor, _number: Tensor, strength: Tensor) -> Tensor:
    """Invert the pixels that reach the strength."""
    threshold = strength.to(image.device, non_blocking=True)[:, None, None, None]
    return torch.where(image < threshold, image, 255 - image)


def _enhance(image: Tensor, number: Tensor, strength: Tensor) -> Tensor:
    """Blend each image with a poorer one: black, grey, all of its mean grey, or smoothed.

    Strength 0 gives the poorer image, 1 the image itself.
    """
    grey = _grey(image)
    pixels = grey[0].numel()
    mean = (2 * grey.sum(dim=(1, 2, 3), keepdim=True) + pixels) // (2 * pixels)
    kind = number.to(image.device, non_blocking=True)[:, None, None, None]
    poorer = torch.where(kind == _NUMBER["sharpness"], _smooth(image), 0)
    poorer = torch.where(kind == _NUMBER["color"], grey, poorer)
    poorer = torch.where(kind == _NUMBER["contrast"], mean, poorer).float()
    weight = strength.float().to(image.device, non_blocking=True)[:, None, None, None]
    return (poorer + weight * (image - poorer)).to(torch.uint8)


def _grey(image: Tensor) -> Tensor:
    """Return the luma of ITU-R 601-2 as whole numbers, one channel."""
    if image.shape[1] == 1:
        return image.int()
    red, green, blue = image.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + _ONE // 2) >> 16


def _smooth(image: Tensor) -> Tensor:
    """Average 3 x 3 pixels, the middle one five times, but keep those on the border."""
    if min(image.shape[2:]) < 3:
        return image
    pixels = image.float()
    inner = F.avg_pool2d(pixels, 3, stride=1, divisor_override=1) + 4 * pixels[:, :, 1:-1, 1:-1]
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = (inner / 13).round()
    return smooth


def _move(image: Tensor, number: Tensor, strength: Tensor) -> Tensor:
    """Show at each place the pixel that an affine map finds for it, and black from outside."""
    height, width = image.shape[2:]
    to = _affine(number, strength, height=height, width=width).to(image.device, non_blocking=True)
    x = torch.arange(width, device=image.device)
    y = torch.arange(height, device=image.device)[:, None]
    to_x, to_y = to[..., None, None].unbind(dim=1)
    column = (to_x[:, 0] * x + to_x[:, 1] * y + to_x[:, 2]) >> 16
    row = (to_y[:, 0] * x + to_y[:, 1] * y + to_y[:, 2]) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel = (row * width + column).where(inside, 0).flatten(1)[:, None]
    found = image.flatten(2).gather(2, pixel.expand(-1, image.shape[1], -1))
    return found.view_as(image) * inside[:, None]


def _affine(
    number: Int64[Tensor, " group"], strength: Float[Tensor, " group"], *, height: int, width: int
) -> Int64[Tensor, "group 2 3"]:
    """Return what leads from a pixel's column and row to the one it shows, in 16.16.

    Rotations turn about the image's centre, shears leave the first row or column; both look up the
    middle of a pixel. Shifts are whole pixels.
    """

    def of(name: str) -> Tensor:
        return torch.where(number == _NUMBER[name], strength.double(), 0.0)

    def fixed(value: Tensor) -> Tensor:
        return (value * _ONE + 0.5).floor().long()

    angle = of("rotate") * (math.pi / 180)
    cosine, sine = angle.cos(), angle.sin()
    from_y, from_x = of("shear_x") - sine, of("shear_y") + sine
    shift_x = (width - width * cosine + height * sine) / 2
    shift_y = (height - width * sine - height * cosine) / 2
    whole_x = (of("translate_x") * width + 0.5).floor().long() * _ONE
    whole_y = (of("translate_y") * height + 0.5).floor().long() * _ONE
    start_x = fixed(shift_x + (cosine + from_y) / 2) + whole_x
    start_y = fixed(shift_y + (from_x + cosine) / 2) + whole_y
    to_x = torch.stack([fixed(cosine), fixed(from_y), start_x], dim=1)
    to_y = torch.stack([fixed(from_x), fixed(cosine), start_y], dim=1)
    return torch.stack([to_x, to_y], dim=1)


_Change = Callable[[Tensor, Tensor, Tensor], Tensor]

_TABLE: tuple[tuple[str, float, float, _Change], ...] = (
    ("auto_contrast", 0.0, 1.0, _auto_contrast),
    ("brightness", 0.05, 0.95, _enhance),
    ("color", 0.05, 0.95, _enhance),
    ("contrast", 0.05, 0.95, _enhance),
    ("equalize", 0.0, 1.0, _equalize),
    ("identity", 0.0, 1.0, _keep),
    ("posterize", 4.0, 8.0, _posterize),
    ("rotate", -30.0, 30.0, _move),
    ("sharpness", 0.05, 0.95, _enhance),
    ("shear_x", -0.3, 0.3, _move),
    ("shear_y", -0.3, 0.3, _move),
    ("solarize", 0.0, 256.0, _solarize),
    ("translate_x", -0.3, 0.3, _move),
    ("translate_y", -0.3, 0.3, _move),
)
"""Each operation with the range of its strength: of posterize in bits, of rotate in degrees counter
clockwise, of solarize in levels, of shears in pixels a pixel, of shifts in shares of the side."""

OPERATIONS = tuple(name for name, *_ in _TABLE)
"""The names of the operations; an operation's number is its index."""

_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_RANGE: Float[Tensor, "operations 2"] = torch.tensor([[low, high] for _, low, high, _ in _TABLE])
_CHANGES: tuple[_Change, ...] = tuple(dict.fromkeys(change for *_, change in _TABLE))
_KIND: Int64[Tensor, " operations"] = torch.tensor([_CHANGES.index(row[3]) for row in _TABLE])
