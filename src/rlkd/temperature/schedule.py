"""Temperatures that depend on the epoch alone."""

import math
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd import arguments
from rlkd.checks import check_logits
from rlkd.errors import UserError
from rlkd.temperature.source import TEMPERATURE_FLOOR, TemperatureSource
from rlkd.types import Temperatures


class EpochSource(TemperatureSource):
    """A source that depends on the epoch; its checkpoint holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 1

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch, counted from 1; see `TemperatureSource`."""
        super().start_epoch(epoch)
        self.epoch = epoch

    def get_extra_state(self) -> dict[str, Any]:
        """Return the epoch."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the epoch."""
        self.epoch = state["epoch"]


class ScheduledTemperature(EpochSource):
    r"""One temperature for all instances, moving from `start` to `end` over the run.

    In epoch E of N, with progress x = (E - 1) / (N - 1): `linear` gives
    T = start + (end - start) x, `cosine` gives T = start + (end - start) (1 - cos(pi x)) / 2,
    which moves slowly at both ends. It is the plainest curriculum, and what any cleverer source
    that depends on time has to beat. Soft targets early and sharp ones late is the direction
    that DTS reports as the better one. The default, 7 to 1, is 4 on average, so that a
    difference to the constant 4 comes from the order and not from the level.

    Args:
        epochs: N, epochs of the run, at least 1; beyond it T stays at `end`.
        start: T of the first epoch, 0.05 or more.
        end: T of the last epoch, 0.05 or more.
        shape: `linear` or `cosine`.

    Raises:
        UserError: for a value out of range.

    Source: Islam et al., "Dynamic Temperature Scheduler for Knowledge Distillation"
    (arXiv 2511.13767), for the direction only: its own schedule follows the gap of losses.
    """

    def __init__(
        self,
        *,
        epochs: int,
        start: float = 7.0,
        end: float = 1.0,
        shape: Literal["linear", "cosine"] = "linear",
    ) -> None:
        super().__init__()
        if shape not in ("linear", "cosine"):
            raise UserError(f"temperature.shape={shape}: give linear or cosine")
        arguments.count("temperature.epochs", epochs)
        arguments.number("temperature.start", start, least=TEMPERATURE_FLOOR)
        arguments.number("temperature.end", end, least=TEMPERATURE_FLOOR)
        self.epochs, self.start, self.end, self.shape = epochs, start, end, shape

    @property
    def temperature(self) -> float:
        """T of this epoch."""
        progress = min((self.epoch - 1) / max(self.epochs - 1, 1), 1.0)
        moved = progress if self.shape == "linear" else half_cosine(progress)
        return self.start + (self.end - self.start) * moved

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        learn_from: Bool[Tensor, " batch"] | None = None,
    ) -> Temperatures:
        """Fill a vector with the epoch's temperature."""
        check_logits(student_logits, teacher_logits, target, finite=False)
        return Temperatures.constant(self.temperature, like=student_logits)


def half_cosine(progress: float) -> float:
    """Go from 0 to 1, slowly at both ends."""
    return (1 - math.cos(math.pi * progress)) / 2
