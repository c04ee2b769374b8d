"""Multi-level logit distillation: instances, their relations, and the classes' relations."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from rlkd import arguments
from rlkd.checks import check_logits
from rlkd.errors import UserError
from rlkd.losses.logits import kd
from rlkd.losses.softened import Temperature, as_temperatures, log_softened
from rlkd.types import Temperatures

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5)
"""The published temperatures 2, 3, 4, 5 and 6, as parts of their middle one."""


def batch_correlation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: Temperature,
) -> Float[Tensor, ""]:
    r"""Return |P_s P_s' - P_t P_t'|^2 / batch, P the softened probabilities, one row an instance.

    It compares which instances are alike. It couples the batch: it has no value a row, and no
    factor T^2 in the paper's code.

    Args:
        student_logits: the student's logits.
        teacher_logits: the teacher's logits.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0.

    Raises:
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Jin et al., "Multi-Level Logit Distillation" (CVPR 2023), batch-level alignment.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    return (student @ student.T - teacher @ teacher.T).square().sum() / student.shape[0]


def class_correlation(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: Temperature,
) -> Float[Tensor, ""]:
    r"""Return |P_s' P_s - P_t' P_t|^2 / classes, P the softened probabilities, a row an instance.

    It compares which classes are taken for one another. It couples the batch: it has no value a
    row, and no factor T^2 in the paper's code.

    Args:
        student_logits: the student's logits.
        teacher_logits: the teacher's logits.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0.

    Raises:
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Jin et al., "Multi-Level Logit Distillation" (CVPR 2023), class-level alignment.
    """
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    return (student.T @ student - teacher.T @ teacher).square().sum() / student.shape[1]


def mlkd(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: Temperature,
    student_logits_strong: Float[Tensor, "batch classes"] | None = None,
    teacher_logits_strong: Float[Tensor, "batch classes"] | None = None,
    *,
    factors: Sequence[float] = FACTORS,
    instance_weight: float = 1.0,
    batch_weight: float = 1.0,
    class_weight: float = 1.0,
    strong_weight: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Return the sum of instance, batch and class level over the temperatures f T_i, f in factors.

    The instance level is KD, on the strong view too where it is given; the relations are compared
    on the weak view. An instance has the same temperature in both views, logit standardisation's
    own too, and what steers it steers all five.

    Args:
        student_logits: the student's logits of the plain, weakly augmented view.
        teacher_logits: the teacher's.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0. 4 is published.
        student_logits_strong: the student's logits of the strongly augmented view.
        teacher_logits_strong: the teacher's.
        factors: what multiplies the temperature, each above 0.
        instance_weight: weight of the instance level on the weak view.
        batch_weight: weight of the batch level.
        class_weight: weight of the class level.
        strong_weight: weight of the instance level on the strong view.

    Raises:
        UserError: if only one network's strong view is given, or there is no factor.
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Jin et al., "Multi-Level Logit Distillation" (CVPR 2023). Their code differs: its mask
    of unsure instances multiplies a value that is averaged already, which halves the weak view's
    three levels, and its strong view takes the weak one's logits at 2 and at 6.
    """
    given: Any = factors
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise UserError(f"factors={given}: give a list of at least one, each above 0")
    for factor in factors:
        arguments.number("factors", factor, above=0)
    arguments.number("instance_weight", instance_weight, least=0)
    arguments.number("batch_weight", batch_weight, least=0)
    arguments.number("class_weight", class_weight, least=0)
    arguments.number("strong_weight", strong_weight, least=0)
    if (student_logits_strong is None) != (teacher_logits_strong is None):
        raise UserError("mlkd has the strong view of one network only: give both or neither")
    check_logits(student_logits, teacher_logits)
    base = as_temperatures(temperature, like=student_logits)
    levels: list[Tensor] = []
    for factor in factors:
        at = _scaled(base, factor)
        levels += [
            instance_weight * kd(student_logits, teacher_logits, at),
            batch_weight * batch_correlation(student_logits, teacher_logits, at),
            class_weight * class_correlation(student_logits, teacher_logits, at),
        ]
        if student_logits_strong is not None and teacher_logits_strong is not None:
            levels.append(strong_weight * kd(student_logits_strong, teacher_logits_strong, at))
    return sum(levels[1:], start=levels[0])


def _scaled(temperatures: Temperatures, factor: float) -> Temperatures:
    weight = temperatures.weight
    return Temperatures(
        student=temperatures.student * factor,
        teacher=temperatures.teacher * factor,
        weight=None if weight is None else weight * factor**2,
        one=temperatures.one,
    )


def _softened(
    student_logits: Tensor, teacher_logits: Tensor, temperature: Temperature
) -> tuple[Tensor, Tensor]:
    check_logits(student_logits, teacher_logits)
    temperatures = as_temperatures(temperature, like=student_logits)
    student = log_softened(student_logits, temperatures.student).exp()
    return student, log_softened(teacher_logits, temperatures.teacher).exp()
