"""One row of logits, softened by the definition of softmax."""

import torch
from torch import Tensor


def softened_row(logits: Tensor, temperature: Tensor | float) -> Tensor:
    """Return exp(z_j / T) / sum_k exp(z_k / T) for every class j."""
    powers = torch.exp(logits / temperature)
    return powers / powers.sum()


def kl_slowly(student: Tensor, teacher: Tensor) -> Tensor:
    """Return sum_j p_j ln(p_j / q_j), p the teacher's and q the student's probabilities."""
    total = torch.zeros((), dtype=student.dtype)
    for q, p in zip(student, teacher, strict=True):
        total = total + p * torch.log(p / q)
    return total
