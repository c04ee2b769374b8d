"""The state: the features of an instance that the agent acts on."""

import torch
from jaxtyping import Float
from torch import Tensor

from rlkd.checks import check_logits
from rlkd.errors import InputError

STATE_NAMES = ("teacher_confidence", "student_confidence", "student_uncertainty")
STATE_SIZE = len(STATE_NAMES)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def instance_state(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
) -> Float[Tensor, "batch 3"]:
    r"""Describe each instance by (c_t, c_s, v), each in [0, 1].

    With p = softmax(z) at temperature 1: c_t = max_j p_t[j] and c_s = max_j p_s[j] are the
    networks' confidences in their own top class, and v = 1 - (c_s - second largest p_s) is the
    margin uncertainty of the student. A row of logits that is not finite, other than by masked
    classes, has a state of NaN.

    Raises:
        ValueError: for fewer than two classes, and for shapes, see `checks.check_logits`.

    Source: Zhang et al., "Instance Temperature Knowledge Distillation" (arXiv 2407.00115). Its
    released code takes the second *smallest* probability for v; see docs/method.md.
    """
    check_logits(student_logits, teacher_logits, finite=False)
    if student_logits.shape[1] < 2:
        raise InputError("logits of 1 class leave no margin between two: give at least 2 classes")
    student = torch.softmax(student_logits.float(), dim=1)
    teacher_confidence = torch.softmax(teacher_logits.float(), dim=1).amax(dim=1)
    first, second = student.topk(2, dim=1).values.unbind(dim=1)
    return torch.stack((teacher_confidence, first, 1 - (first - second)), dim=1)


def temperature_figures(temperature: Float[Tensor, " batch"]) -> dict[str, Tensor]:
    """Return mean, standard deviation and quantiles of a batch's temperatures, by name."""
    levels = torch.tensor(_QUANTILES).to(temperature.device, non_blocking=True)
    named = zip(_QUANTILES, temperature.quantile(levels), strict=True)
    return {
        "temperature_mean": temperature.mean(),
        "temperature_std": temperature.std(correction=0),
        **{f"temperature_p{round(100 * level):02d}": quantile for level, quantile in named},
    }
