"""How images of any size become those that networks see: in training by chance, else by a rule."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from rlkd.errors import UserError

_TRIES = 10
_RATIO = (3 / 4, 4 / 3)
"""Of width to height, of a random crop."""
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
    4/3; it is resized to a square. In evaluation the shorter side is resized and the middle square
    is cut out. Both are torchvision's `RandomResizedCrop`, and `Resize` with `CenterCrop`.

    Args:
        size: height and width of what networks see, in pixels.
        resize: the shorter side that images are resized to before the middle is cut out; at least
            `size`.
        smallest_area: of a random crop, as a share of the image's; above 0, at most 1.
        flip: whether training mirrors images left to right with probability one half.

    Raises:
        UserError: if an option is out of its range.
    """

    size: int = 224
    resize: int = 256
    smallest_area: float = 0.08
    flip: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"data.image_size={self.size}: give 1 or more pixels")
        if self.resize < self.size:
            raise UserError(
                f"data.resize={self.resize}: give at least data.image_size={self.size}, which is "
                "cut out of what is resized"
            )
        if not 0 < self.smallest_area <= 1:
            raise UserError(
                f"data.smallest_area={self.smallest_area}: give a share of the image above 0, at "
                "most 1"
            )

    def draw(self, height: int, width: int, generator: torch.Generator) -> Crop:
        """Draw a crop of an image of that height and width."""
        drawn = torch.rand(4 * _TRIES + 1, generator=generator, dtype=torch.float64).tolist()
        mirrored = self.flip and drawn[-1] < 0.5
        lowest, highest = map(math.log, _RATIO)
        for number in range(0, 4 * _TRIES, 4):
            share, shape, down, across = drawn[number : number + 4]
            area = height * width * (self.smallest_area + share * (1 - self.smallest_area))
            ratio = math.exp(lowest + shape * (highest - lowest))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = int(down * (height - h + 1)), int(across * (width - w + 1))
                return Crop(top, left, h, w, mirrored)
        return _middle(height, width, mirrored)

    def cut(
        self, image: UInt8[Tensor, "3 height width"], crop: Crop
    ) -> UInt8[Tensor, "3 size size"]:
        """Cut a crop out, resize it to a square, and mirror it if told."""
        part = image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        square = _resized(part, self.size, self.size)
        return square.flip(2) if crop.mirrored else square

    def evaluated(self, image: UInt8[Tensor, "3 height width"]) -> UInt8[Tensor, "3 size size"]:
        """Resize the shorter side and cut out the middle square.

        Of an image 16 times as long as it is wide, or longer, only the middle is resized.
        """
        image = shortened(image)
        height, width = image.shape[1:]
        shorter = min(height, width)
        resized = _resized(
            image, int(self.resize * height / shorter), int(self.resize * width / shorter)
        )
        top, left = (round((side - self.size) / 2.0) for side in resized.shape[1:])
        return resized[:, top : top + self.size, left : left + self.size]


def shortened(image: UInt8[Tensor, "c height width"]) -> UInt8[Tensor, "c _ _"]:
    """Return an image, or the middle of one so long that it would take gigabytes once resized.

    An image whose longer side is at most 16 times the shorter is returned as it is.
    """
    most = _LONGEST * min(image.shape[1:])
    top, left = (max(0, side - most) // 2 for side in image.shape[1:])
    return image[:, top : top + most, left : left + most]


def _resized(
    image: UInt8[Tensor, "3 height width"], height: int, width: int
) -> UInt8[Tensor, "3 new_height new_width"]:
    if image.shape[1:] == (height, width):
        return image
    return F.interpolate(
        image[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]


def _middle(height: int, width: int, mirrored: bool) -> Crop:
    """Return the largest crop in the middle of an image that is not too wide or too high."""
    h, w = height, width
    if width / height < _RATIO[0]:
        h = round(width / _RATIO[0])
    elif width / height > _RATIO[1]:
        w = round(height * _RATIO[1])
    return Crop((height - h) // 2, (width - w) // 2, h, w, mirrored)
