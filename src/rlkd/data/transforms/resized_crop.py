"""Random resized crops for training; resizing and a centre crop for evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from rlkd import arguments
from rlkd.errors import UserError

_TRIES = 10
_RATIO = (3 / 4, 4 / 3)
"""Of width to height, of a random crop that becomes a square."""
_LONGEST = 16
"""The longer side over the shorter of what is resized whole."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Views:
    """The crops of an image.

    In training a crop's area is a random share of the image's, its width over its height 3/4 to
    4/3 of that of `size`, to which it is resized. In evaluation see `fitted`. Where the size is a
    square, both are torchvision's `RandomResizedCrop`, and `Resize` with `CenterCrop`.

    Args:
        size: height and width of what networks see, in pixels.
        resize: see `fitted`; at least the shorter side of `size`.
        smallest_area: of a random crop, as a share of the image's; above 0, at most 1.
        flip: whether training mirrors images left to right with probability one half.

    Raises:
        UserError: if an option is out of its range.
    """

    size: tuple[int, int] = (224, 224)
    resize: int = 256
    smallest_area: float = 0.08
    flip: bool = True

    def __post_init__(self) -> None:
        arguments.count("data.resize", self.resize, most=arguments.MOST_PIXELS)
        arguments.flag("data.flip", self.flip)
        arguments.number("data.smallest_area", self.smallest_area, above=0, most=1)
        if self.resize < min(self.size):
            raise UserError(
                f"data.resize={self.resize}: give at least {min(self.size)}, the shorter side of "
                "data.image_size, which is cut out of what is resized"
            )

    def draw(self, height: int, width: int, generator: torch.Generator) -> Crop:
        """Draw a crop of an image of that height and width."""
        drawn = torch.rand(4 * _TRIES + 1, generator=generator, dtype=torch.float64).tolist()
        mirrored = self.flip and drawn[-1] < 0.5
        lowest, highest = map(math.log, self._ratios)
        for number in range(0, 4 * _TRIES, 4):
            share, shape, down, across = drawn[number : number + 4]
            area = height * width * (self.smallest_area + share * (1 - self.smallest_area))
            ratio = math.exp(lowest + shape * (highest - lowest))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = int(down * (height - h + 1)), int(across * (width - w + 1))
                return Crop(top, left, h, w, mirrored)
        return self._middle(height, width, mirrored)

    def cut(
        self, image: UInt8[Tensor, "channels height width"], crop: Crop
    ) -> UInt8[Tensor, "channels high wide"]:
        """Cut a crop out, resize it to `size`, and mirror it if asked."""
        part = image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        view = _resized(part, *self.size)
        return view.flip(2) if crop.mirrored else view

    def evaluated(
        self, image: UInt8[Tensor, "channels height width"]
    ) -> UInt8[Tensor, "channels high wide"]:
        """Return what an evaluation sees of an image."""
        return fitted(image, self.size, self.resize)

    @property
    def _ratios(self) -> tuple[float, float]:
        """The least and the most of width to height of a crop."""
        high, wide = self.size
        return _RATIO[0] * (wide / high), _RATIO[1] * (wide / high)

    def _middle(self, height: int, width: int, mirrored: bool) -> Crop:
        """Return the largest crop in the middle of an image that is not too wide or too high."""
        h, w = height, width
        narrowest, widest = self._ratios
        if width / height < narrowest:
            h = max(round(width / narrowest), 1)
        elif width / height > widest:
            w = max(round(height * widest), 1)
        return Crop((height - h) // 2, (width - w) // 2, h, w, mirrored)


def pixel_size(given: Any, key: str) -> tuple[int, int]:
    """Return the height and width that an option gives: one number for both, or both.

    Raises:
        UserError: if it gives anything else, or a side below 1 pixel.
    """
    sides: Any = [given, given] if isinstance(given, int) else given
    if isinstance(sides, Sequence) and len(cast("Sequence[Any]", sides)) == 2:
        height, width = sides
        if all(type(each) is int and 0 < each <= arguments.MOST_PIXELS for each in (height, width)):
            return height, width
    raise UserError(
        f"{key}={given}: give 1 or more pixels, at most {arguments.MOST_PIXELS}, or "
        "[HEIGHT,WIDTH], such as [64,96]"
    )


def fitted(
    image: UInt8[Tensor, "channels height width"], size: tuple[int, int], resize: int | None = None
) -> UInt8[Tensor, "channels high wide"]:
    """Resize an image until it just covers a frame, and cut the middle out.

    Of an image 16 times as long as it is wide, or longer, only the middle is resized.

    Args:
        image: of any size.
        size: height and width of what is cut out, in pixels.
        resize: the shorter side of the frame, which has the proportions of `size`; None for `size`
            itself.
    """
    high, wide = frame(size, resize)
    if image.shape[1:] == size == (high, wide):
        return image
    image = shortened(image)
    height, width = image.shape[1:]
    if height * wide <= width * high:
        resized = _resized(image, high, high * width // height)
    else:
        resized = _resized(image, wide * height // width, wide)
    top, left = (round((a - b) / 2.0) for a, b in zip(resized.shape[1:], size, strict=True))
    return resized[:, top : top + size[0], left : left + size[1]]


def frame(size: tuple[int, int], resize: int | None = None) -> tuple[int, int]:
    """Return the height and width that `fitted` resizes an image to cover."""
    height, width = (side * (resize or min(size)) // min(size) for side in size)
    return height, width


def shortened(image: UInt8[Tensor, "c height width"]) -> UInt8[Tensor, "c _ _"]:
    """Return an image, or the middle of one so long that it would take gigabytes once resized.

    An image whose longer side is at most 16 times the shorter is returned as it is.
    """
    most = _LONGEST * min(image.shape[1:])
    top, left = (max(0, side - most) // 2 for side in image.shape[1:])
    return image[:, top : top + most, left : left + most]


def _resized(
    image: UInt8[Tensor, "channels height width"], height: int, width: int
) -> UInt8[Tensor, "channels new_height new_width"]:
    if image.shape[1:] == (height, width):
        return image
    return F.interpolate(
        image[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
