"""Random crop and horizontal flip of a whole batch, in one gather."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How each image is cropped and flipped."""

    offset: Int64[Tensor, "images 2"]
    """Row and column of the crop's corner in the padded image, in 0 to 2 * padding."""
    flip: Bool[Tensor, " images"]
    """Whether the crop is mirrored left to right."""

    @classmethod
    def draw(
        cls, count: int, *, crop_padding: int, flip: bool, generator: torch.Generator
    ) -> "Augmentation":
        """Draw crops uniformly, and flips with probability one half or never."""
        offset = torch.randint(0, 2 * crop_padding + 1, (count, 2), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
        return cls(offset=offset, flip=mirrored)

    @classmethod
    def of_view(cls, view: Int64[Tensor, " images"], *, crop_padding: int) -> "Augmentation":
        """Return the crop and flip of each view; see `view`."""
        side = 2 * crop_padding + 1
        corner = view % side**2
        return cls(torch.stack([corner // side, corner % side], dim=1), view >= side**2)

    def view(self, *, crop_padding: int) -> Int64[Tensor, " images"]:
        """Return the number of each crop and flip, below `views`; first those that do not flip."""
        side, (row, column) = 2 * crop_padding + 1, self.offset.unbind(1)
        return self.flip * side**2 + row * side + column

    def select(self, rows: Int64[Tensor, " rows"]) -> "Augmentation":
        """Return the augmentation of some images."""
        return Augmentation(offset=self.offset[rows], flip=self.flip[rows])

    def to(self, device: torch.device) -> "Augmentation":
        """Return the same augmentation on a device, which the host does not wait for."""
        return Augmentation(
            offset=self.offset.to(device, non_blocking=True),
            flip=self.flip.to(device, non_blocking=True),
        )


def views(*, crop_padding: int, flip: bool) -> int:
    """Return how many crops and flips of an image there are."""
    return (1 + flip) * (2 * crop_padding + 1) ** 2


def crop_and_flip(
    image: UInt8[Tensor, "batch channels height width"],
    augmentation: Augmentation,
    *,
    crop_padding: int,
) -> UInt8[Tensor, "batch channels height width"]:
    """Pad with zeros (black), cut each image's crop at its own size, then mirror it if asked.

    Args:
        image: images in 0 to 255.
        augmentation: one crop and flip an image.
        crop_padding: pixels added on each side.
    """
    batch, channels, height, width = image.shape
    padded = F.pad(image, (crop_padding,) * 4)
    row = torch.arange(height, device=image.device)
    column = torch.arange(width, device=image.device)
    mirrored = torch.where(augmentation.flip[:, None], width - 1 - column, column)
    y = augmentation.offset[:, :1] + row
    x = augmentation.offset[:, 1:] + mirrored
    pixel = y[:, :, None] * (width + 2 * crop_padding) + x[:, None, :]
    everywhere = pixel.view(batch, 1, height * width).expand(batch, channels, height * width)
    return (
        padded.view(batch, channels, padded.shape[2] * padded.shape[3])
        .gather(2, everywhere)
        .view_as(image)
    )
