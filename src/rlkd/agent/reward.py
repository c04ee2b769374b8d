"""The reward: the student's gain in performance over the update that the agent shaped."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlkd import arguments, distributed
from rlkd.checks import MASKED
from rlkd.errors import UserError
from rlkd.types import IGNORED, class_index

RewardSource = Literal["next_batch", "same_batch", "probe", "look_ahead"]
Metric = Literal["accuracy", "loss"]

WORST_LOSS = 100.0
"""In nats: a greater loss counts as this one. It is a probability of 4e-44, below float32's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """The measurements that make the reward, and the gate that damps it early in training.

    Args:
        source: `next_batch` (the paper's: before is batch b, after is batch b + 1, each scored
            by the forward pass that training makes anyway), `same_batch` (batch b again, after
            the update), `probe` (a fixed batch held out of training) or `look_ahead` (what each
            instance's temperature takes off a held-out loss, to first order).
        metric: `accuracy`, or `loss` (minus the cross-entropy).
        interval: updates from one probe to the next; the temperatures of all of them share
            the reward. At least 1; only the probe reads it.
        gate_epochs: n_gate of sigmoid(E / n_gate), in epochs, above 0; None leaves the gate out.

    Raises:
        UserError: for an unknown source or metric, or a number out of range.
    """

    source: RewardSource = "next_batch"
    metric: Metric = "accuracy"
    interval: int = 1
    gate_epochs: float | None = 80.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("source", self.source, get_args(RewardSource)),
            ("metric", self.metric, get_args(Metric)),
        ):
            if value not in known:
                raise UserError(f"reward {name}={value}: choose one of {', '.join(known)}")
        arguments.count("probe_interval", self.interval)
        arguments.number("gate_epochs", self.gate_epochs, above=0, optional=True)

    @property
    def before_from_batch(self) -> bool:
        """True if performance_before comes from the training pass of the batch itself."""
        return self.source in ("next_batch", "same_batch")

    @property
    def after_from_batch(self) -> bool:
        """True if performance_after comes from the training pass of the next batch."""
        return self.source == "next_batch"

    @property
    def looks_ahead(self) -> bool:
        """True if the reward is predicted, for each instance, before the update."""
        return self.source not in ("next_batch", "same_batch", "probe")

    @property
    def reminder(self) -> str:
        """What to say to a loop that has left the agent waiting."""
        wanted = (
            "call look_ahead(...) whenever look_ahead_due is true before the student's pass"
            if self.looks_ahead
            else "call observe(performance(...)) whenever observation_due is true after the "
            "student's update"
        )
        return (
            "the temperature agent waits for a measurement: with the reward source "
            f"{self.source}, {wanted}; until then it learns nothing"
        )

    @property
    def updates_per_window(self) -> int:
        """Return the number of updates whose temperatures share one reward."""
        return self.interval if self.source == "probe" else 1

    def tally(
        self,
        student_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        usable: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "2"]:
        """Score logits: the sum of the scores, and of how many instances.

        A score is 1 where the likeliest class is right and 0 elsewhere, or minus the cross-entropy
        in nats, at most `WORST_LOSS`. Instances whose target is `types.IGNORED`, and those that
        cannot be scored, do not count.

        Args:
            student_logits: the logits.
            target: the classes, or a distribution over classes a row.
            usable: the rows whose logits are finite; None to find out.
        """
        logits = student_logits.detach().float()
        index = class_index(target)
        usable = logits.amax(dim=1).isfinite() if usable is None else usable
        counted = usable & (index != IGNORED)
        if target.is_floating_point():
            counted = counted & target.sum(dim=1).isfinite()
        if self.metric == "loss":
            # A masked class that a distribution does not count costs nothing.
            logits = logits.clamp_min(MASKED) if target.is_floating_point() else logits
            loss = F.cross_entropy(logits, target, reduction="none").clamp_max(WORST_LOSS)
            score = -loss
        else:
            score = (logits.argmax(dim=1) == index).to(logits)
        return torch.stack((torch.where(counted, score, 0.0).sum(), counted.sum().to(logits)))

    def performance(
        self,
        student_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Float[Tensor, ""]:
        """Return the mean score, see `tally`, over all ranks; NaN where no instance counts."""
        return mean_score(distributed.sum_over_ranks(self.tally(student_logits, target)))

    def gate(self, epoch: int) -> float:
        """Return sigmoid(E / n_gate), in (0.5, 1) for E >= 1; 1 without a gate."""
        if self.gate_epochs is None:
            return 1.0
        return 1 / (1 + math.exp(-epoch / self.gate_epochs))


def mean_score(tally: Float[Tensor, "2"]) -> Float[Tensor, ""]:
    """Return the mean of what was tallied, NaN if that is nothing."""
    return tally[0] / tally[1]
