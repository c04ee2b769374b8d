"""Losses on logits, each with a temperature of its own for every instance."""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlkd.losses.softened import Temperature, as_temperatures, log_softened

Reduction = Literal["mean", "none"]


def cross_entropy(
    student_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """Return the cross-entropy with the labels, at temperature 1, in nats.

    Args:
        student_logits: the student's logits.
        target: class indices, or a distribution over classes a row.
        reduction: `mean` over the batch, or `none`.
    """
    return F.cross_entropy(student_logits.float(), target, reduction=reduction)


def kd(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: Temperature,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    r"""Return T_i^2 KL(softmax(z_t / T_i) || softmax(z_s / T_i)), averaged over the batch.

    The factor keeps gradients of one size whatever the temperature; where student and teacher
    have their own, it is the product of the two.

    Args:
        student_logits: the student's logits, z_s.
        teacher_logits: the teacher's logits, z_t.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        ValueError: if the temperature's shape does not fit.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), section 2.
    """
    temperatures = as_temperatures(temperature, like=student_logits)
    student = log_softened(student_logits, temperatures.student)
    teacher = log_softened(teacher_logits, temperatures.teacher)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    loss = temperatures.student * temperatures.teacher * divergence
    return loss.mean() if reduction == "mean" else loss
