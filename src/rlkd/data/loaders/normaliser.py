"""Normalises uint8 images to float32."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from rlkd.errors import UserError


def per_channel(given: Any, default: Sequence[float], key: str) -> tuple[float, ...]:
    """Return the numbers, one a channel, that an option gives.

    Args:
        given: the option; None for the default.
        default: as many numbers as there are channels.
        key: of the option; one that ends in `std` gives numbers above 0, any other from 0 to 1.

    Raises:
        UserError: if it gives anything else.
    """
    if given is None:
        return tuple(default)
    numbers = list(cast("Sequence[Any]", given)) if isinstance(given, Sequence) else []
    std = key.endswith("std")
    if len(numbers) != len(default) or not all(
        isinstance(each, int | float)
        and not isinstance(each, bool)
        and (0 < each < math.inf if std else 0 <= each <= 1)
        for each in numbers
    ):
        among = "above 0" if std else "from 0 to 1, for pixels in [0, 1]"
        count = "1 number" if len(default) == 1 else f"{len(default)} numbers, one a channel,"
        raise UserError(f"{key}={given}: give {count} {among}")
    return tuple(map(float, numbers))


class Normaliser:
    """Turns pixels in 0 to 255 into what networks see: of each channel minus mean, over std.

    Args:
        channels: of the images.
        mean: one number a channel, with pixels in [0, 1].
        std: the same, above 0.
        memory_format: of what is returned: contiguous or channels last.
        device: where it is reckoned.

    Raises:
        UserError: if there is not one mean and one std a channel, or a std is not above 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        memory_format: torch.memory_format,
        device: torch.device,
    ) -> None:
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise UserError(
                f"mean={mean} and std={std}: give {channels} numbers each, one a channel, and "
                "a std above 0"
            )
        std_column = torch.tensor(std, device=device)[:, None, None]
        self._scale = 1 / (255 * std_column)
        self._shift = torch.tensor(mean, device=device)[:, None, None] / std_column
        self._memory_format = memory_format

    def __call__(self, image: UInt8[Tensor, "batch c h w"]) -> Float32[Tensor, "batch c h w"]:
        """Normalise images that are on the device."""
        pixels = image.to(torch.float32, memory_format=self._memory_format)
        return pixels.mul_(self._scale).sub_(self._shift)
