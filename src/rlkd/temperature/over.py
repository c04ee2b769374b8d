"""A temperature over the logits as another source leaves them."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlkd.errors import UserError
from rlkd.temperature.logit_driven import DTKD, LogitDriven, LogitStandardisation, NormKD
from rlkd.temperature.source import TEMPERATURE_FLOOR
from rlkd.types import Temperatures

Over = Literal["plain", "standardised", "normkd", "dtkd"]

_BASES: Mapping[Over, LogitDriven] = {
    "standardised": LogitStandardisation(base_temperature=1.0),
    "normkd": NormKD(base_temperature=1.0),
    "dtkd": DTKD(base_temperature=1.0),
}
"""Each is proportional to its base temperature, which is 1 here."""


def check_over(name: object) -> None:
    """Refuse what no temperature can be over.

    Raises:
        UserError: if it is none of `Over`.
    """
    if name not in get_args(Over):
        raise UserError(f"over={name}: choose one of {', '.join(get_args(Over))}")


def over(
    name: Over,
    teacher_logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    temperature: Float[Tensor, "batch actions"],
    student_logits: Float[Tensor, "batch classes"],
) -> Temperatures:
    """Return temperatures that multiply what a source makes of the logits at temperature 1.

    Args:
        name: `plain` for the temperatures themselves; `standardised`, `normkd` and `dtkd` for those
            of `LogitStandardisation`, `NormKD` and `DTKD`, in whose place of tau or T_0 they stand.
        teacher_logits: the teacher's.
        target: of each instance.
        temperature: of each instance, finite: one for both networks, or the student's and the
            teacher's.
        student_logits: their gradient passes through the source, as it does there.
    """
    base, (student, *others) = _BASES.get(name), temperature.unbind(dim=1)
    teacher = others[0] if others else student
    if base is None:
        return Temperatures(student, teacher)
    with torch.autocast(student_logits.device.type, enabled=False):
        found = base(student_logits, teacher_logits, target).times(student, teacher)
    return Temperatures(
        found.student.clamp_min(TEMPERATURE_FLOOR),
        found.teacher.clamp_min(TEMPERATURE_FLOOR),
        found.weight,
        found.one,
        chosen=student,
    )
