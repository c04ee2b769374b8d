"""Distillation losses: functions of logits, and the weighted sum of them."""

from rlkd.losses.logits import cross_entropy, kd
from rlkd.losses.objective import LossInputs, Objective, Term
from rlkd.losses.softened import as_temperatures, log_softened

__all__ = [
    "LossInputs",
    "Objective",
    "Term",
    "as_temperatures",
    "cross_entropy",
    "kd",
    "log_softened",
]
