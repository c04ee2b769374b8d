"""The greedy look-ahead: a control that takes for each instance what looks best one step ahead."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd import arguments
from rlkd.checks import check_logits, usable_rows
from rlkd.errors import UserError, notice
from rlkd.temperature.look_ahead import GainOf, HeldOut, check_held_out
from rlkd.temperature.over import Over, check_over, over
from rlkd.temperature.schedule import EpochSource
from rlkd.temperature.source import TEMPERATURE_FLOOR
from rlkd.types import Temperatures


class GreedyLookAhead(EpochSource):
    """Gives each instance, at every step, the temperature that gains most to first order.

    **A control, not a method.** It looks ahead at every step, which costs as much as another, and
    what it chooses follows the held-out images one step ahead: it drives up the scale of the logits
    and fits the probe's own labels. In sketches it ended below a student that trains alone
    (docs/method.md). A policy of few features, as the agent's, is what keeps a look-ahead honest.

    Args:
        base_temperature: of the warm-up, and wherever there is no gain to look at.
        temperatures: those that it chooses from.
        over: what each T multiplies, as an agent's; see `temperature.over`.
        held_out: what it looks at, see `look_ahead.held_out_loss`.
        warmup_epochs: epochs of constant temperature.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self,
        *,
        base_temperature: float = 4.0,
        temperatures: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
        over: Over = "plain",
        held_out: HeldOut = "cross_entropy",
        warmup_epochs: int = 0,
    ) -> None:
        super().__init__()
        arguments.number("base_temperature", base_temperature, least=TEMPERATURE_FLOOR)
        arguments.count("warmup_epochs", warmup_epochs, least=0)
        for each in temperatures:
            arguments.number("temperatures", each, least=TEMPERATURE_FLOOR)
        if not temperatures:
            raise UserError("temperatures=[]: give those to choose from, [1,2,4,8]")
        check_over(over)
        check_held_out(held_out)
        self.base_temperature, self.temperatures = base_temperature, tuple(temperatures)
        self.over: Over = over
        self.held_out, self.warmup_epochs = held_out, warmup_epochs
        self._gain_of: GainOf | None = None
        self._answered = self._reminded = False

    @property
    def look_ahead_due(self) -> bool:
        """True at every step after the warm-up."""
        return self.training and self.epoch > self.warmup_epochs

    @property
    def needs_probe(self) -> bool:
        """True: its images are held out of training."""
        return True

    def look_ahead(self, gain_of: GainOf | None) -> None:
        """Take what temperatures of the coming batch would bring; `forward` chooses by it."""
        self._gain_of, self._answered = gain_of, True

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        learn_from: Bool[Tensor, " batch"] | None = None,
    ) -> Temperatures:
        """Return for each instance the temperature of the greatest gain; the base where none is."""
        check_logits(student_logits, teacher_logits, target, finite=False)
        gain_of, self._gain_of = self._gain_of, None
        answered, self._answered = self._answered, False
        at = partial(over, self.over, teacher_logits, target)
        base = Temperatures.constant(self.base_temperature, like=student_logits).student
        if gain_of is None:
            if self.look_ahead_due and not (answered or self._reminded):
                self._reminded = True
                notice(
                    "temperature=look_ahead waits for what temperatures would bring: call "
                    "look_ahead(...) whenever look_ahead_due is true before the student's update; "
                    "until then all have the base temperature"
                )
            return at(base[:, None], student_logits)
        tried = (torch.full_like(base, each)[:, None] for each in self.temperatures)
        found = [gain_of(partial(at, each)).gain for each in tried]
        gain = torch.stack(found)
        known = torch.tensor(self.temperatures).to(gain.device, non_blocking=True)
        best = known[gain.nan_to_num(-torch.inf).argmax(dim=0)]
        usable = usable_rows(student_logits, teacher_logits) & gain.isfinite().all(dim=0)
        self.updates += 1
        return at(torch.where(usable, best, base)[:, None], student_logits)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the epoch, and how many look-aheads there were."""
        return super().get_extra_state() | {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned; raise a ValueError where it is anything else."""
        super().set_extra_state(state)
        if type(state["updates"]) is not int or state["updates"] < 0:
            raise ValueError("updates is no count")
        self.updates = state["updates"]
