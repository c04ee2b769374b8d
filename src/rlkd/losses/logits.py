"""Losses on logits, each with a temperature of its own for every instance."""

from typing import Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlkd import arguments
from rlkd.checks import MASKED, check_logits, float32_or_better
from rlkd.errors import InputError
from rlkd.losses.softened import Temperature, as_temperatures, log_softened

Reduction = Literal["mean", "none"]


def kl_divergence(
    log_student: Float[Tensor, "batch classes"], log_teacher: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Return KL(teacher || student) of every row of log-probabilities, in nats."""
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)


def reduced(
    loss: Float[Tensor, " batch"], reduction: Reduction
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """Average one value a row over the batch (`mean`), or leave it (`none`).

    Raises:
        InputError: for anything else.
    """
    return loss.mean() if _checked(reduction) == "mean" else loss


def _checked(reduction: Reduction) -> Reduction:
    if reduction not in get_args(Reduction):
        raise InputError(f"reduction={reduction!r:.40}: give mean or none")
    return reduction


def cross_entropy(
    student_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    *,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """Return the cross-entropy with the labels, at temperature 1, in nats.

    Args:
        student_logits: the student's logits.
        target: class indices, or a distribution over classes a row.
        reduction: `mean` over the batch, or `none`.
        label_smoothing: the share of each target that is spread evenly over all classes, in [0, 1].
        class_weights: what each class's part of a row is multiplied by, at least 0. The mean is
            over the rows, as torch's is for distributions, so that passes and ranks add up to the
            whole batch; torch's for class indices divides by the weights instead.

    Raises:
        ValueError: for another reduction, a label smoothing out of range, or weights that are not
            one for each class; and see `checks.check_logits`.
    """
    check_logits(student_logits, target=target)
    arguments.number("label_smoothing", label_smoothing, least=0, most=1)
    logits = float32_or_better(student_logits)
    if target.is_floating_point():  # a masked class that a row does not count costs nothing
        logits, target = logits.clamp_min(MASKED), target.to(logits.dtype)
    if class_weights is None:
        return F.cross_entropy(
            logits, target, reduction=_checked(reduction), label_smoothing=label_smoothing
        )
    if class_weights.shape != student_logits.shape[1:]:
        raise InputError(
            f"class_weights of shape {tuple(class_weights.shape)}: give one for each of "
            f"{student_logits.shape[1]} classes"
        )
    weight = class_weights.to(logits)
    rows = F.cross_entropy(
        logits, target, weight=weight, reduction="none", label_smoothing=label_smoothing
    )
    return reduced(rows, reduction)


def supervised(
    student_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    student_loss: Float[Tensor, ""] | None = None,
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Return what the labels alone teach: the cross-entropy, or a detector's own losses.

    Args:
        student_logits: the student's logits.
        target: class indices, or a distribution over classes a row.
        student_loss: the loss of a student that computes one from the labels itself.
        label_smoothing: of the cross-entropy, see `cross_entropy`, as the next.
        class_weights: one for each class, or None.
    """
    if student_loss is not None:
        return student_loss
    return cross_entropy(
        student_logits, target, label_smoothing=label_smoothing, class_weights=class_weights
    )


def supervised_views(
    student_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    student_loss: Float[Tensor, ""] | None = None,
    student_logits_strong: Float[Tensor, "batch classes"] | None = None,
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Return what the labels teach on the plain view and on the strong one, where there is one.

    Args:
        student_logits: the student's logits of the plain view.
        target: class indices, or a distribution over classes a row.
        student_loss: the loss of a student that computes one from the labels itself.
        student_logits_strong: the student's logits of the strongly augmented view.
        label_smoothing: of both, see `cross_entropy`, as the next.
        class_weights: one for each class, or None.

    Source: the released code of Jin et al., "Multi-Level Logit Distillation" (CVPR 2023), which
    adds the two cross-entropies.
    """
    plain = supervised(student_logits, target, student_loss, label_smoothing, class_weights)
    if student_logits_strong is None:
        return plain
    return plain + supervised(student_logits_strong, target, None, label_smoothing, class_weights)


def kd(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: Temperature,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    r"""Return T_i^2 KL(softmax(z_t / T_i) || softmax(z_s / T_i)), averaged over the batch.

    The factor keeps gradients of one size at any temperature; where student and teacher
    have their own, it is the product of the two, unless `Temperatures.weight` says otherwise.

    Args:
        student_logits: the student's logits, z_s.
        teacher_logits: the teacher's logits, z_t.
        temperature: a number, a (batch,) tensor, or `Temperatures`; above 0.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        ValueError: if the temperature's shape does not fit, or see `checks.check_logits`.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), section 2.
    """
    check_logits(student_logits, teacher_logits)
    temperatures = as_temperatures(temperature, like=student_logits)
    student = log_softened(student_logits, temperatures.student)
    teacher = log_softened(teacher_logits, temperatures.teacher)
    return reduced(temperatures.factor * kl_divergence(student, teacher), reduction)
