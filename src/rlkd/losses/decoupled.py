"""Decoupled distillation: the target class apart from what is known about the others."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlkd import arguments
from rlkd.checks import check_logits
from rlkd.errors import UserError
from rlkd.losses.logits import Reduction, kl_divergence, reduced
from rlkd.losses.softened import Temperature, as_temperatures, log_softened
from rlkd.types import class_index


def without_class(
    values: Float[Tensor, "batch classes"], index: Int[Tensor, " batch"]
) -> Float[Tensor, "batch others"]:
    """Leave one class out of every row, the others in their order."""
    other = torch.arange(values.shape[1] - 1, device=values.device)
    kept = other + (other >= index[:, None]).long()
    return values.gather(1, kept)


def refuse_two_classes(name: str, logits: Float[Tensor, "batch classes"]) -> None:
    """Refuse data whose classes other than the target have no distribution among them.

    Raises:
        UserError: for fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise UserError(
            f"{name} compares the classes other than the target, and {logits.shape[1]} classes "
            "leave at most one of them: use method=kd"
        )


def dkd(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    temperature: Temperature,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    r"""Return T_i^2 (alpha TCKD_i + beta NCKD_i), averaged over the batch.

    TCKD is KL(b_t || b_s), b = (p_target, 1 - p_target) the softened probabilities of the target
    and of all other classes together; NCKD is KL(q_t || q_s), q the softened distribution among
    those others alone. KD is TCKD + (1 - p_target of the teacher) NCKD: a confident teacher mutes
    what it knows about the other classes, and DKD gives it a weight of its own.

    Args:
        student_logits: the student's logits.
        teacher_logits: the teacher's logits.
        target: class indices; of a mixed target, its likeliest class counts.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0.
        alpha: weight of the target part.
        beta: weight of the part among the others; published between 2 and 8 on CIFAR-100 (larger
            for a teacher far ahead of its student), 0.5 on ImageNet.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        UserError: for fewer than three classes.
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Zhao et al., "Decoupled Knowledge Distillation" (CVPR 2022), equation 7.
    """
    arguments.number("alpha", alpha, least=0)
    arguments.number("beta", beta, least=0)
    check_logits(student_logits, teacher_logits, target, ignored=False)
    refuse_two_classes("DKD", student_logits)
    temperatures = as_temperatures(temperature, like=student_logits)
    index = class_index(target)
    of_target = kl_divergence(
        _target_or_other(student_logits, temperatures.student, index),
        _target_or_other(teacher_logits, temperatures.teacher, index),
    )
    among_others = kl_divergence(
        log_softened(without_class(student_logits, index), temperatures.student),
        log_softened(without_class(teacher_logits, index), temperatures.teacher),
    )
    return reduced(temperatures.factor * (alpha * of_target + beta * among_others), reduction)


def _target_or_other(
    logits: Float[Tensor, "batch classes"],
    temperature: Float[Tensor, " batch"],
    index: Int[Tensor, " batch"],
) -> Float[Tensor, "batch 2"]:
    """Return the log-probabilities of the target and of all other classes together.

    The second is summed from the others: the logarithm of 1 - p_target would be minus infinity
    where p_target rounds to 1.
    """
    log_p = log_softened(logits, temperature)
    others = without_class(log_p, index).logsumexp(dim=1)
    return torch.stack((log_p.gather(1, index[:, None])[:, 0], others), dim=1)
