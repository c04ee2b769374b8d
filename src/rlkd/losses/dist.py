"""DIST: agreement up to scale and shift, within each row and within each class."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rlkd import arguments
from rlkd.checks import check_logits
from rlkd.losses.softened import Temperature, as_temperatures, log_softened


def dist(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: Temperature,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
) -> Float[Tensor, ""]:
    r"""Return beta mean_i T_i^2 (1 - r_i) + gamma mean_i(T_i^2) (1 - mean_c r_c).

    r_i is Pearson's correlation of the student's and the teacher's softened probabilities of
    instance i (inter-class), r_c that of class c over the batch (intra-class). The second couples
    the instances, so that it takes their mean factor, and the loss has no form without reduction.
    A row or a class that does not vary counts as uncorrelated.

    Args:
        student_logits: the student's logits.
        teacher_logits: the teacher's logits.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0.
        beta: weight of the inter-class part.
        gamma: weight of the intra-class part.

    Raises:
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher" (NeurIPS 2022); the
    factor T^2 is in the released code and not in the paper's pseudocode.
    """
    arguments.number("beta", beta, least=0)
    arguments.number("gamma", gamma, least=0)
    check_logits(student_logits, teacher_logits)
    temperatures = as_temperatures(temperature, like=student_logits)
    student = log_softened(student_logits, temperatures.student).exp()
    teacher = log_softened(teacher_logits, temperatures.teacher).exp()
    between_classes = (temperatures.factor * (1 - _correlation(student, teacher, dim=1))).mean()
    within_classes = temperatures.factor.mean() * (1 - _correlation(student, teacher, dim=0)).mean()
    return beta * between_classes + gamma * within_classes


def _correlation(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], *, dim: int
) -> Float[Tensor, " left"]:
    """Return the correlations, 0 and without gradient where nothing varies but by rounding.

    A student whose last layer starts at zero has such rows; their gradient, divided by what
    rounding left of a deviation, would be some 1e8.
    """
    deviations = [each - each.mean(dim=dim, keepdim=True) for each in (student, teacher)]
    with torch.no_grad():
        small = 8 * torch.finfo(student.dtype).eps
        own, other = (each.norm(dim=dim) for each in deviations)
        flat = (own <= small * student.norm(dim=dim)) | (other <= small * teacher.norm(dim=dim))
        uncorrelated = 0 * (own + other)  # and NaN where either is
    return torch.where(flat, uncorrelated, F.cosine_similarity(*deviations, dim=dim, eps=1e-8))
