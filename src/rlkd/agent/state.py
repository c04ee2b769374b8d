"""The state: the features of an instance that the agent acts on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd import arguments
from rlkd.checks import check_logits
from rlkd.errors import InputError, UserError
from rlkd.types import IGNORED

STATE_NAMES = ("teacher_confidence", "student_confidence", "student_uncertainty")
STATE_SIZE = len(STATE_NAMES)
"""Of the paper's state, which comes first in every other."""
Feature = Literal[
    "teacher_entropy",
    "student_entropy",
    "teacher_target",
    "student_target",
    "divergence",
    "agreement",
    "teacher_deviation",
    "student_deviation",
    "epoch",
    "learning_rate",
    "hotter_gained",
]
"""What a state may hold beyond the paper's; see `StateOf`."""
FEATURES: tuple[Feature, ...] = get_args(Feature)
_CONTEXT = ("epoch", "learning_rate", "hotter_gained")
"""The features that all instances of a batch have alike."""
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


class StateOf:
    r"""Describes each instance by the paper's state and by features that are named.

    Each feature lies in [0, 1]. With p = softmax(z) at temperature 1, of either network:
    `teacher_entropy` and `student_entropy` are the entropy of p over its greatest, ln(classes);
    `teacher_target` and `student_target` are p of the right class, or its mean over a mixed target;
    `divergence` is 1 - exp(-KL(p_t || p_s)); `agreement` is 1 where both have one top class;
    `teacher_deviation` and `student_deviation` are sigma / (1 + sigma) of a row of logits.
    All instances of a batch share `epoch`, E / (E + n_gate); `learning_rate`, 0 for 1e-8 or less
    and 1 for 10 or more, even in its logarithm; and `hotter_gained`, how the last look-ahead's
    gains went along with the temperature: (1 + their correlation) / 2, 0.5 before the first and
    where groups are of one.

    Args:
        given: `paper` for its three alone, `extended` for all, or the names of those to add.
        two_actions: whether each instance has two: the student's temperature, and the teacher's.

    Raises:
        UserError: for a feature that is not known, or named twice.
    """

    def __init__(self, given: str | Sequence[str] = "paper", *, two_actions: bool = False) -> None:
        arguments.flag("two_actions", two_actions)
        named = {"paper": (), "extended": FEATURES}
        names: Any = named.get(given) if isinstance(given, str) else given
        if not isinstance(names, Sequence) or (not names and given != "paper"):
            raise UserError(
                f"state={given}: give paper, extended, or a list of {', '.join(FEATURES)}"
            )
        names = tuple(names)
        for each in names:
            if each not in FEATURES:
                raise UserError(f"state: {each} is no feature: choose of {', '.join(FEATURES)}")
            if names.count(each) > 1:
                raise UserError(f"state: {each} is named twice")
        self.names, self.two_actions = names, two_actions

    @property
    def features(self) -> int:
        """How many features a state has."""
        return STATE_SIZE + len(self.names)

    @property
    def size(self) -> int:
        """How many the policy reads: of two actions, also which one it is."""
        return self.features + self.two_actions

    def by_action(
        self, state: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch actions size"]:
        """Return what the policy reads for each action."""
        if not self.two_actions:
            return state[:, None]
        which = state.new_zeros(len(state), 1)
        return torch.stack([torch.cat((state, each), dim=1) for each in (which, which + 1)], dim=1)

    def __call__(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        context: Mapping[str, float | Float[Tensor, ""]],
    ) -> Float[Tensor, "batch features"]:
        """Return each instance's state; NaN where its logits are not finite.

        Args:
            student_logits: at temperature 1.
            teacher_logits: the same.
            target: a row of `IGNORED` counts as having no right class.
            context: the features that the whole batch shares, by name.
        """
        paper = instance_state(student_logits, teacher_logits)
        if not self.names:
            return paper
        found = {"teacher": teacher_logits.float(), "student": student_logits.float()}
        every: dict[str, Tensor] = {}
        for name in _CONTEXT:
            of_batch = context[name]
            if isinstance(of_batch, Tensor):
                every[name] = of_batch.to(paper).expand(len(paper))
            else:
                every[name] = paper.new_full((len(paper),), of_batch)
        log = {role: torch.log_softmax(logits, dim=1) for role, logits in found.items()}
        for role, logits in found.items():
            known = logits.isfinite()
            p, log_p = log[role].exp(), log[role].masked_fill(~known, 0.0)
            every[f"{role}_entropy"] = -(p * log_p).sum(dim=1) / math.log(logits.shape[1])
            every[f"{role}_target"] = _of_target(p, target)
            every[f"{role}_deviation"] = 1 - 1 / (1 + _deviation(logits, known))
        apart = (log["teacher"] - log["student"]).nan_to_num(0.0, 1e4, 0.0)
        every["divergence"] = 1 - (-(log["teacher"].exp() * apart).sum(dim=1).clamp_min(0)).exp()
        top = [logits.argmax(dim=1) for logits in found.values()]
        every["agreement"] = (top[0] == top[1]).to(paper)
        added = torch.stack([every[name] for name in self.names], dim=1)
        whole = paper.isfinite().all(dim=1, keepdim=True)
        return torch.cat((paper, torch.where(whole, added.clamp(0, 1), torch.nan)), dim=1)


def learning_rate_feature(rate: float) -> float:
    """Place a learning rate in [0, 1], see `StateOf`."""
    return min(max((math.log10(max(rate, 1e-8)) + 8) / 9, 0.0), 1.0)


def _deviation(
    logits: Float[Tensor, "batch classes"], known: Bool[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """Return the standard deviation of each row over the classes that are not masked."""
    count = known.sum(dim=1, keepdim=True).clamp_min(1)
    inside = torch.where(known, logits, 0.0)
    length = inside.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    inside = inside / length  # squares of large logits are infinite
    centred = torch.where(known, inside - inside.sum(dim=1, keepdim=True) / count, 0.0)
    return (length * (centred.square().sum(dim=1, keepdim=True) / count).sqrt())[:, 0]


def _of_target(
    p: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
) -> Float[Tensor, " batch"]:
    if target.dim() > 1:
        return (p * target).sum(dim=1)
    scored = target != IGNORED
    found = p.gather(1, torch.where(scored, target, 0)[:, None])[:, 0]
    return torch.where(scored, found, 0.0)


def temperature_figures(temperature: Float[Tensor, "batch actions"]) -> dict[str, Tensor]:
    """Return mean, standard deviation and quantiles of a batch's temperatures, by name.

    Where the teacher's are actions of their own, their names begin with `teacher_`.
    """
    levels = torch.tensor(_QUANTILES).to(temperature.device, non_blocking=True)
    figures: dict[str, Tensor] = {}
    for role, each in zip(("", "teacher_"), temperature.unbind(dim=1), strict=False):
        figures[f"{role}temperature_mean"] = each.mean()
        figures[f"{role}temperature_std"] = each.std(correction=0)
        for level, quantile in zip(_QUANTILES, each.quantile(levels), strict=True):
            figures[f"{role}temperature_p{round(100 * level):02d}"] = quantile
    return figures
