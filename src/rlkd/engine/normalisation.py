"""A teacher that wants its images normalised or sized otherwise than the student."""

import torch
from omegaconf import DictConfig
from torch import Tensor

from rlkd.data.dataset import Dataset
from rlkd.data.loaders.normaliser import per_channel
from rlkd.data.transforms.resized_crop import pixel_size


def renormalisation(config: DictConfig, dataset: Dataset) -> tuple[Tensor, Tensor] | None:
    """Return the scale and shift that turn the data's normalisation into the teacher's.

    Args:
        config: the `teacher` node, with its `mean` and `std`.
        dataset: has the data's.

    Returns:
        Both of shape (channels, 1, 1); None where the teacher wants the data's own.

    Raises:
        UserError: if they are not one number a channel; see `per_channel`.
    """
    if config.get("mean") is None and config.get("std") is None:
        return None
    wanted = (
        per_channel(config.get("mean"), dataset.mean, "teacher.mean"),
        per_channel(config.get("std"), dataset.std, "teacher.std"),
    )
    mean, std, teacher_mean, teacher_std = (
        torch.tensor(each)[:, None, None] for each in (dataset.mean, dataset.std, *wanted)
    )
    return std / teacher_std, (mean - teacher_mean) / teacher_std


def resolution(config: DictConfig) -> tuple[int, int] | None:
    """Return the height and width that the teacher wants in place of the data's; None for those.

    Args:
        config: the `teacher` node, with its `image_size`.

    Raises:
        UserError: if it gives no size.
    """
    given = config.get("image_size")
    return None if given is None else pixel_size(given, "teacher.image_size")
