"""The random control: temperatures of the agent's distribution, independent of the instance."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd import arguments, distributed
from rlkd.checks import check_logits
from rlkd.temperature.bounded_gaussian import BoundedGaussian, check_policy, raw_from_temperature
from rlkd.temperature.over import Over, check_over, over
from rlkd.temperature.random_stream import RandomStream
from rlkd.temperature.recorded import QUANTILES, quantile_column, recorded
from rlkd.temperature.schedule import EpochSource
from rlkd.types import Temperatures


class RandomTemperature(EpochSource):
    """Draws every temperature at random, instance by instance, and learns nothing.

    With `like`, a gain of that agent over this control comes from *which* instance gets which
    temperature. Without, the distribution is the one that an agent starts from, and a gain over it
    may come from a better level as well. A gain of this control over the constant is chance's.

    Args:
        base_temperature: centre of the distribution, and the temperature of the warm-up, in
            [0.05, T_max).
        max_temperature: T_max, above 0.05.
        initial_std: standard deviation of u, where T = T_max * sigmoid(u); 0.3 to e.
        warmup_epochs: epochs of constant temperature, as many as the agent's.
        like: run folder of an agent: the distribution is then, epoch by epoch, the one that this
            agent's temperatures had, linear between its recorded quantiles.
        over: what each T multiplies, as an agent's; see `temperature.over`.
        seed: of its own random generator.

    Raises:
        UserError: for a value out of range, or a run folder without recorded temperatures.
    """

    def __init__(
        self,
        *,
        base_temperature: float = 4.0,
        max_temperature: float = 10.0,
        initial_std: float = 0.5,
        warmup_epochs: int = 0,
        like: str | None = None,
        over: Over = "plain",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_over(over)
        check_policy(base_temperature, max_temperature, initial_std)
        arguments.count("warmup_epochs", warmup_epochs, least=0)
        self.base_temperature, self.max_temperature = base_temperature, max_temperature
        self.mean, self.std = raw_from_temperature(base_temperature, max_temperature), initial_std
        self.warmup_epochs = warmup_epochs
        columns = [quantile_column(level) for level in QUANTILES]
        self.recorded = None if like is None else recorded(Path(like), columns, over)
        self.over: Over = over
        self._random = RandomStream(seed)

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        learn_from: Bool[Tensor, " batch"] | None = None,
    ) -> Temperatures:
        """Draw a temperature for every row."""
        check_logits(student_logits, teacher_logits, target, finite=False)
        temperature = self._drawn(student_logits)[:, None]
        return over(self.over, teacher_logits, target, temperature, student_logits)

    def _drawn(self, student_logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
        if self.epoch <= self.warmup_epochs:
            return Temperatures.constant(self.base_temperature, like=student_logits).student
        # Of all ranks' rows: each takes its own from one draw.
        part, device = distributed.this_rank(), student_logits.device
        rows = len(student_logits) * part.world_size
        generator = self._random.on(device)
        if self.recorded is None:
            mean = torch.full((rows,), self.mean, device=device)
            policy = BoundedGaussian(mean, torch.full_like(mean, self.std), self.max_temperature)
            return part.share_of(policy.temperature(policy.sample(generator)))
        row = self.recorded[min(self.epoch, len(self.recorded)) - 1]
        knots, levels = torch.tensor([row, QUANTILES]).to(device, non_blocking=True)
        span = QUANTILES[-1] - QUANTILES[0]
        drawn = QUANTILES[0] + span * torch.rand(rows, generator=generator, device=device)
        above = torch.searchsorted(levels, drawn).clamp(1, len(QUANTILES) - 1)
        share = (drawn - levels[above - 1]) / (levels[above] - levels[above - 1])
        mapped = knots[above - 1] + share * (knots[above] - knots[above - 1])
        return part.share_of(mapped)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the epoch, and where the random generator stands."""
        return super().get_extra_state() | {"generator": self._random.state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the epoch and the random generator."""
        super().set_extra_state(state)
        self._random.restore(state["generator"])
