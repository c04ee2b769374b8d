"""DKD and NKD one row at a time, from probabilities: slow, and plain to read."""

import torch
from tests.reference.softened_row import kl_slowly, softened_row
from torch import Tensor

from rlkd.types import Temperatures


def dkd_slowly(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: list[int],
    temperatures: Temperatures,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Return factor_i (alpha TCKD_i + beta NCKD_i) for every row."""
    rows: list[Tensor] = []
    for i, c in enumerate(target):
        student = softened_row(student_logits[i], temperatures.student[i])
        teacher = softened_row(teacher_logits[i], temperatures.teacher[i])
        others = [j for j in range(len(student)) if j != c]
        target_or_not = kl_slowly(
            torch.stack([student[c], 1 - student[c]]), torch.stack([teacher[c], 1 - teacher[c]])
        )
        among_others = kl_slowly(
            student[others] / (1 - student[c]), teacher[others] / (1 - teacher[c])
        )
        rows.append(temperatures.factor[i] * (alpha * target_or_not + beta * among_others))
    return torch.stack(rows)


def nkd_slowly(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: list[int],
    temperatures: Temperatures,
    gamma: float = 1.5,
) -> Tensor:
    """Return -p_t ln p_s - gamma factor_i sum_j q_tj ln q_sj for every row."""
    rows: list[Tensor] = []
    for i, c in enumerate(target):
        of_student, of_teacher = (
            softened_row(logits[i], 1.0)[c] for logits in (student_logits, teacher_logits)
        )
        row = -of_teacher * torch.log(of_student)
        student = softened_row(student_logits[i], temperatures.student[i])
        teacher = softened_row(teacher_logits[i], temperatures.teacher[i])
        for j in range(len(student)):
            if j != c:
                q_s, q_t = student[j] / (1 - student[c]), teacher[j] / (1 - teacher[c])
                row = row - gamma * temperatures.factor[i] * q_t * torch.log(q_s)
        rows.append(row)
    return torch.stack(rows)
