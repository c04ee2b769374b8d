"""TTM and WTTM one row at a time, by the power transform: slow, and plain to read."""

import torch
from tests.reference.softened_row import kl_slowly, softened_row
from torch import Tensor

from rlkd.types import Temperatures


def _powers(teacher_logits: Tensor, temperature: Tensor) -> Tensor:
    return softened_row(teacher_logits, 1.0) ** (1 / temperature)


def ttm_slowly(
    student_logits: Tensor, teacher_logits: Tensor, temperatures: Temperatures
) -> Tensor:
    """Return KL(p^(1/T) / sum p^(1/T) || q) for every row."""
    rows: list[Tensor] = []
    for z_s, z_t, t in zip(student_logits, teacher_logits, temperatures.teacher, strict=True):
        powers = _powers(z_t, t)
        rows.append(kl_slowly(softened_row(z_s, 1.0), powers / powers.sum()))
    return torch.stack(rows)


def wttm_slowly(
    student_logits: Tensor, teacher_logits: Tensor, temperatures: Temperatures
) -> Tensor:
    """Return the same, times sum p^(1/T)."""
    rows: list[Tensor] = []
    for z_s, z_t, t in zip(student_logits, teacher_logits, temperatures.teacher, strict=True):
        powers = _powers(z_t, t)
        divergence = kl_slowly(softened_row(z_s, 1.0), powers / powers.sum())
        rows.append(powers.sum() * divergence)
    return torch.stack(rows)
