"""The strong view of a batch: a crop and a flip of its own, then AutoAugment's CIFAR-10 policy.

Images of a batch that meet the same operation go through it together, so that a batch costs a few
dozen calls whatever its size; the pixels are those of `torchvision.transforms.v2.AutoAugment`.

Source: Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data" (CVPR 2019), the
policy in the appendix's table for CIFAR-10. Multi-Level Logit Distillation (Jin et al., CVPR 2023)
trains on such a pair of views; the code handed down from it draws the strong one by FixMatch's
RandAugment with cutout instead.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from rlkd.data.augment import Augmentation, crop_and_flip

_LEVELS = 10

_POLICY: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("auto_contrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("auto_contrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("auto_contrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 0)),
)
"""Sub-policies of two steps: operation, probability, level in 0 to 9 (0 where it has none)."""


@dataclass(frozen=True, slots=True)
class StrongAugmentation:
    """How the strong view of each image is made; kept on the CPU, where a batch is planned."""

    crop: Augmentation
    """The crop and the flip, which come first."""
    operation: Int64[Tensor, "images 2"]
    """The two steps of AutoAugment, in the numbers that `auto_augment` knows; 0 for no change."""

    @classmethod
    def draw(
        cls, count: int, *, crop_padding: int, flip: bool, generator: torch.Generator
    ) -> "StrongAugmentation":
        """Draw a crop, a flip and a sub-policy an image, each step with its probability."""
        crop = Augmentation.draw(count, crop_padding=crop_padding, flip=flip, generator=generator)
        policy = torch.randint(len(_POLICY), (count,), generator=generator)
        applied = torch.rand(count, 2, generator=generator) < _PROBABILITY[policy]
        negative = torch.randint(2, (count, 2), generator=generator)
        operation = _NUMBER[policy].gather(2, negative[:, :, None]).squeeze(2)
        return cls(crop=crop, operation=operation * applied)

    def select(self, rows: Int64[Tensor, " rows"]) -> "StrongAugmentation":
        """Return the augmentation of some images."""
        return StrongAugmentation(self.crop.select(rows), self.operation[rows])


def strong_view(
    image: UInt8[Tensor, "batch channels height width"],
    augmentation: StrongAugmentation,
    *,
    crop_padding: int,
) -> UInt8[Tensor, "batch channels height width"]:
    """Crop and flip each image, then put it through its two steps of AutoAugment.

    Args:
        image: grey or RGB images in 0 to 255, on any device.
        augmentation: one an image.
        crop_padding: pixels added on each side before the crop.
    """
    cropped = crop_and_flip(image, augmentation.crop.to(image.device), crop_padding=crop_padding)
    return auto_augment(cropped, augmentation.operation)


def auto_augment(
    image: UInt8[Tensor, "batch channels height width"], operation: Int64[Tensor, "batch steps"]
) -> UInt8[Tensor, "batch channels height width"]:
    """Put each image through its operations, one step after the other.

    Args:
        image: grey or RGB images in 0 to 255, on any device.
        operation: numbers of operations, 0 for no change, on the CPU.
    """
    for number in operation.unbind(dim=1):
        order = number.argsort(stable=True)
        present, count = number.unique(return_counts=True)
        groups = image[order.to(image.device)].split(count.tolist())
        changed = [_apply(group, one) for group, one in zip(groups, present.tolist(), strict=True)]
        image = torch.cat(changed)[order.argsort().to(image.device)]
    return image


def _apply(
    image: UInt8[Tensor, "group channels height width"], number: int
) -> UInt8[Tensor, "group channels height width"]:
    if number == 0:
        return image
    name, level, sign = _VARIANTS[number - 1]
    if name in _SIGNED:
        make, highest = _SIGNED[name]
        return make(image, sign * _at(level, highest))
    return _UNSIGNED[name](image, level)


def _at(level: int, highest: float, *, lowest: float = 0.0) -> float:
    """Return the strength of a level in single precision, as torchvision rounds it."""
    return float(torch.linspace(lowest, highest, _LEVELS)[level])


def _shear_y(image: Tensor, slope: float) -> Tensor:
    degrees = math.degrees(math.atan(slope))
    return F.affine(
        image, angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, degrees], center=[0, 0]
    )


def _translate(image: Tensor, *, x: float = 0.0, y: float = 0.0) -> Tensor:
    pixels: list[float] = [int(x * image.shape[3]), int(y * image.shape[2])]
    return F.affine(image, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])


_SIGNED: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "shear_y": (_shear_y, 0.3),
    "translate_x": (lambda image, share: _translate(image, x=share), 150 / 331),
    "translate_y": (lambda image, share: _translate(image, y=share), 150 / 331),
    "rotate": (lambda image, degrees: F.rotate(image, angle=degrees), 30.0),
    "brightness": (lambda image, change: F.adjust_brightness(image, 1 + change), 0.9),
    "color": (lambda image, change: F.adjust_saturation(image, 1 + change), 0.9),
    "contrast": (lambda image, change: F.adjust_contrast(image, 1 + change), 0.9),
    "sharpness": (lambda image, change: F.adjust_sharpness(image, 1 + change), 0.9),
}
"""Operations whose strength has either sign, with their strength at level 9."""

_UNSIGNED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "posterize": lambda image, level: F.posterize(image, bits=8 - round(level * 4 / 9)),
    "solarize": lambda image, level: F.solarize(image, 255 * _at(level, 0.0, lowest=1.0)),
    "auto_contrast": lambda image, _: F.autocontrast(image),
    "equalize": lambda image, _: F.equalize(image),
    "invert": lambda image, _: F.invert(image),
}


def _tabulate() -> tuple[list[tuple[str, int, int]], Int64[Tensor, "policies 2 2"]]:
    """Number the distinct operations from 1, and look up those of each step for + and for -."""
    variants: dict[tuple[str, int, int], int] = {}
    number = torch.zeros(len(_POLICY), 2, 2, dtype=torch.int64)
    for row, steps in enumerate(_POLICY):
        for step, (name, _, level) in enumerate(steps):
            for column, sign in enumerate((1, -1)):
                key = (name, level, sign if name in _SIGNED else 1)
                number[row, step, column] = variants.setdefault(key, len(variants) + 1)
    return list(variants), number


_VARIANTS, _NUMBER = _tabulate()
_PROBABILITY: Float[Tensor, "policies 2"] = torch.tensor(
    [[first[1], second[1]] for first, second in _POLICY]
)
