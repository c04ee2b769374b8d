"""Crop and flip one image at a time, by slicing: slow, and plain to read."""

import torch
from torch import Tensor


def crop_and_flip_slowly(
    image: Tensor, offset: Tensor, flip: Tensor, *, crop_padding: int
) -> Tensor:
    """Do what `rlkd.data.transforms.crop_flip.crop_and_flip` does, in a loop."""
    _, channels, height, width = image.shape
    done: list[Tensor] = []
    for picture, (top, left), mirrored in zip(image, offset.tolist(), flip.tolist(), strict=True):
        padded = torch.zeros(
            channels, height + 2 * crop_padding, width + 2 * crop_padding, dtype=image.dtype
        )
        padded[:, crop_padding : crop_padding + height, crop_padding : crop_padding + width] = (
            picture
        )
        crop = padded[:, top : top + height, left : left + width]
        done.append(crop.flip(-1) if mirrored else crop)
    return torch.stack(done)
