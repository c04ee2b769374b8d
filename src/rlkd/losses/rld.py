"""Refined logits: what a wrong teacher says about the target is left out, not corrected."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd import arguments
from rlkd.checks import check_logits
from rlkd.errors import UserError
from rlkd.losses.decoupled import without_class
from rlkd.losses.logits import Reduction, kl_divergence, reduced
from rlkd.losses.softened import Temperature, as_temperatures, log_softened
from rlkd.types import class_index


def rld(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    temperature: Temperature,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    r"""Return T_i^2 (alpha SCD_i + beta MCD_i), averaged over the batch.

    SCD, of the sample's confidence, is KL(b_t || b_s): b_t = (p, 1 - p) of the teacher's likeliest
    class, whichever that is, and b_s that of the target in the student. MCD, of the masked
    correlation, is KL(q_t || q_s), q the softened distribution among the classes that the teacher
    ranks below the target; those at or above it, the target too, are masked in both networks. Where
    the teacher is right this is DKD. Where fewer than two classes are left MCD is 0, so that of two
    classes in all only SCD remains.

    Args:
        student_logits: the student's logits.
        teacher_logits: the teacher's logits.
        target: class indices; of a mixed target, its likeliest class counts.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0, the same in both
            parts.
        alpha: weight of the sample's confidence.
        beta: weight of the masked correlation; published as 8 on CIFAR-100, 0.5 or 2 on ImageNet.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        UserError: for fewer than two classes.
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Sun et al., "Knowledge Distillation with Refined Logits" (ICCV 2025), as the released
    code has it (zju-SWJ/RLD, mdistiller/distillers/RLD.py).
    """
    arguments.number("alpha", alpha, least=0)
    arguments.number("beta", beta, least=0)
    check_logits(student_logits, teacher_logits, target, ignored=False)
    if student_logits.shape[1] < 2:
        raise UserError(
            "RLD compares the target with the other classes, and there are none: "
            "give data of at least 2 classes"
        )
    temperatures = as_temperatures(temperature, like=student_logits)
    index = class_index(target)
    kept = _below_target(teacher_logits, index)
    student = log_softened(student_logits, temperatures.student)
    teacher = log_softened(teacher_logits, temperatures.teacher)
    of_confidence = kl_divergence(
        _class_or_other(student, index), _class_or_other(teacher, teacher.argmax(dim=1))
    )
    of_correlation = kl_divergence(_among(student, kept), _among(teacher, kept))
    return reduced(temperatures.factor * (alpha * of_confidence + beta * of_correlation), reduction)


def _below_target(
    teacher_logits: Float[Tensor, "batch classes"], index: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch classes"]:
    """Return which classes the teacher ranks below the target: where none, the target alone.

    A class alone is certain for both networks, so that such a row has no divergence and no
    gradient; a softmax over no class would be NaN.
    """
    column = index[:, None]
    below = teacher_logits < teacher_logits.gather(1, column)
    return below.scatter(1, column, ~below.any(dim=1, keepdim=True))


def _class_or_other(
    log_p: Float[Tensor, "batch classes"], index: Int[Tensor, " batch"]
) -> Float[Tensor, "batch 2"]:
    """Return the log-probabilities of one class and of all others together."""
    others = without_class(log_p, index).logsumexp(dim=1)
    return torch.stack((log_p.gather(1, index[:, None])[:, 0], others), dim=1)


def _among(
    log_p: Float[Tensor, "batch classes"], kept: Bool[Tensor, "batch classes"]
) -> Float[Tensor, "batch classes"]:
    """Renormalise the log-probabilities of the classes kept; the others get 0 in either network.

    Equal log-probabilities add nothing to a divergence, where minus infinity would make it NaN.
    """
    log_q = log_p.masked_fill(~kept, -torch.inf).log_softmax(dim=1)
    return log_q.masked_fill(~kept, 0.0)
