"""Normalised distillation: a soft target, and a cross-entropy among the other classes."""

from jaxtyping import Float, Int
from torch import Tensor

from rlkd import arguments
from rlkd.checks import check_logits
from rlkd.losses.decoupled import refuse_two_classes, without_class
from rlkd.losses.logits import Reduction, reduced
from rlkd.losses.softened import Temperature, as_temperatures, log_softened
from rlkd.types import class_index


def nkd(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    temperature: Temperature,
    *,
    gamma: float = 1.5,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    r"""Return -p_t log p_s - gamma T_i^2 sum_j q_tj log q_sj, averaged over the batch.

    p is the probability of the target at temperature 1; q is the softened distribution among the
    other classes alone, which makes those of student and teacher sum to the same. The temperature
    is that of the second part only, logit standardisation's scale apart. It is a cross-entropy: its
    least value is not 0.

    Args:
        student_logits: the student's logits.
        teacher_logits: the teacher's logits.
        target: class indices; of a mixed target, its likeliest class counts.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0.
        gamma: weight of the part among the other classes; published as 1.5 at temperature 1 on
            ImageNet, 3.5 at 3 on CIFAR-100.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        UserError: for fewer than three classes.
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
    Approach with Normalized Loss and Customized Soft Labels" (ICCV 2023). A later version of the
    released code keeps the target among the others, which its authors call a mistake (cls_KD,
    issue 16).
    """
    arguments.number("gamma", gamma, least=0)
    check_logits(student_logits, teacher_logits, target, ignored=False)
    refuse_two_classes("NKD", student_logits)
    temperatures = as_temperatures(temperature, like=student_logits)
    index = class_index(target)
    one = temperatures.at_one
    log_p_student = log_softened(student_logits, one.student).gather(1, index[:, None])[:, 0]
    log_p_teacher = log_softened(teacher_logits, one.teacher).gather(1, index[:, None])[:, 0]
    of_target = -log_p_teacher.exp() * log_p_student
    log_q_student = log_softened(without_class(student_logits, index), temperatures.student)
    log_q_teacher = log_softened(without_class(teacher_logits, index), temperatures.teacher)
    among_others = -(log_q_teacher.exp() * log_q_student).sum(dim=1)
    return reduced(of_target + gamma * temperatures.factor * among_others, reduction)
