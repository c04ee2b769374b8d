"""Transformed teacher matching: only the teacher is softened."""

from jaxtyping import Float
from torch import Tensor

from rlkd.checks import check_logits
from rlkd.losses.logits import Reduction, kl_divergence, reduced
from rlkd.losses.softened import Temperature, as_temperatures, log_softened
from rlkd.types import Temperatures


def ttm(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: Temperature,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    r"""Return KL(p_t^(1/T_i) normalised || p_s), averaged over the batch.

    The power transform of a softmax is the softmax of z / T. The student stays at temperature 1,
    so no factor T^2 is needed; of `Temperatures` only the teacher's is used, and either network's
    `one`.

    Args:
        student_logits: the student's logits.
        teacher_logits: the teacher's logits.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0. The paper's exponent
            gamma is 1 / T.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching" (ICLR
    2024), section 3.
    """
    check_logits(student_logits, teacher_logits)
    temperatures = as_temperatures(temperature, like=student_logits)
    return reduced(_divergence(student_logits, teacher_logits, temperatures), reduction)


def wttm(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: Temperature,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    r"""Return U_i KL(p_t^(1/T_i) normalised || p_s), averaged over the batch.

    U_i = sum_j p_tj^(1/T_i), what the power transform is normalised by, is large for a teacher
    that is unsure: between 1 and classes^(1 - 1/T) where T is above 1.

    Args:
        student_logits: the student's logits.
        teacher_logits: the teacher's logits.
        temperature: a number, a (batch,) tensor, or `Temperatures`, of which only the teacher's
            is used; above 0. The paper's exponent gamma is 1 / T.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching" (ICLR
    2024), section 4.
    """
    check_logits(student_logits, teacher_logits)
    temperatures = as_temperatures(temperature, like=student_logits)
    divergence = _divergence(student_logits, teacher_logits, temperatures)
    return reduced(_power_sum(teacher_logits, temperatures) * divergence, reduction)


def _divergence(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperatures: Temperatures,
) -> Float[Tensor, " batch"]:
    student = log_softened(student_logits, temperatures.at_one.student)
    return kl_divergence(student, log_softened(teacher_logits, temperatures.teacher))


def _power_sum(
    logits: Float[Tensor, "batch classes"], temperatures: Temperatures
) -> Float[Tensor, " batch"]:
    """Return sum_j p_j^(1/T), by what it does to any one class: here the likeliest.

    softmax(z / T)_j is p_j^(1/T) over that sum.
    """
    one, softening = temperatures.at_one.teacher, temperatures.teacher
    top = logits.argmax(dim=1, keepdim=True)
    log_p = log_softened(logits, one).gather(1, top)[:, 0]
    log_transformed = log_softened(logits, softening).gather(1, top)[:, 0]
    return (log_p * one / softening - log_transformed).exp()
