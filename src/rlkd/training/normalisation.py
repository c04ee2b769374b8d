"""A teacher that wants another normalisation of its images than the student."""

from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor

from rlkd.data.sets import Dataset
from rlkd.errors import UserError


def renormalisation(config: DictConfig, dataset: Dataset) -> tuple[Tensor, Tensor] | None:
    """Return the scale and shift that turn the data's normalisation into the teacher's.

    Args:
        config: the `teacher` node, with its `mean` and `std`.
        dataset: has the data's.

    Returns:
        Both of shape (channels, 1, 1); None where the teacher wants the data's own.

    Raises:
        UserError: if they are not one number a channel, std above 0.
    """
    if config.get("mean") is None and config.get("std") is None:
        return None
    columns: dict[str, Tensor] = {}
    for name in ("mean", "std"):
        given = config[name] if config[name] is not None else getattr(dataset, name)
        numbers = [each for each in given if isinstance(each, int | float)] if _many(given) else []
        if len(numbers) != len(dataset.mean) or (name == "std" and min(numbers) <= 0):
            raise UserError(
                f"teacher.{name}={given}: give {len(dataset.mean)} numbers, one a channel"
                + (", above 0" if name == "std" else "")
            )
        columns[name] = torch.tensor(numbers, dtype=torch.float32)[:, None, None]
    mean, std = (torch.tensor(each)[:, None, None] for each in (dataset.mean, dataset.std))
    return std / columns["std"], (mean - columns["mean"]) / columns["std"]


def _many(given: Any) -> bool:
    return isinstance(given, ListConfig | list | tuple)
