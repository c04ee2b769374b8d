"""The losses that couple the batch, pair by pair: slow, and plain to read."""

import torch
from tests.reference.softened_row import kl_slowly, softened_row
from torch import Tensor

from rlkd.types import Temperatures


def softened_slowly(logits: Tensor, temperature: Tensor) -> Tensor:
    return torch.stack([softened_row(z, t) for z, t in zip(logits, temperature, strict=True)])


def pearson_slowly(x: Tensor, y: Tensor) -> Tensor:
    """Return covariance over the product of standard deviations, of two vectors."""
    count = len(x)
    mean_x, mean_y = sum(x) / count, sum(y) / count
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spread_x = sum((a - mean_x) ** 2 for a in x)
    spread_y = sum((b - mean_y) ** 2 for b in y)
    return torch.as_tensor(covariance) / (torch.as_tensor(spread_x * spread_y) ** 0.5)


def dist_slowly(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperatures: Temperatures,
    beta: float = 2.0,
    gamma: float = 2.0,
) -> Tensor:
    """Return DIST: correlations row by row, then class by class."""
    student = softened_slowly(student_logits, temperatures.student)
    teacher = softened_slowly(teacher_logits, temperatures.teacher)
    batch, classes = student.shape
    total = torch.zeros((), dtype=student.dtype)
    for i in range(batch):
        share = temperatures.factor[i] / batch
        total = total + beta * share * (1 - pearson_slowly(student[i], teacher[i]))
    mean_factor = sum(temperatures.factor) / batch
    for c in range(classes):
        gap = 1 - pearson_slowly(student[:, c], teacher[:, c])
        total = total + gamma * mean_factor * gap / classes
    return total


def gram_gap_slowly(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the summed squared difference of all scalar products of rows, over their number."""
    total = torch.zeros((), dtype=student.dtype)
    for i in range(len(student)):
        for j in range(len(student)):
            gap = (student[i] * student[j]).sum() - (teacher[i] * teacher[j]).sum()
            total = total + gap**2
    return total / len(student)


def mlkd_slowly(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperatures: Temperatures,
    factors: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5),
) -> Tensor:
    """Return the three levels on one view, summed over the temperatures."""
    total = torch.zeros((), dtype=student_logits.dtype)
    for f in factors:
        student = softened_slowly(student_logits, f * temperatures.student)
        teacher = softened_slowly(teacher_logits, f * temperatures.teacher)
        for i in range(len(student)):
            weight = f * f * temperatures.factor[i] / len(student)
            total = total + weight * kl_slowly(student[i], teacher[i])
        total = total + gram_gap_slowly(student, teacher) + gram_gap_slowly(student.T, teacher.T)
    return total
