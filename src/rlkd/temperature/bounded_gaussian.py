"""A temperature in (0, T_max), drawn from a squashed Gaussian."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rlkd import arguments
from rlkd.temperature.source import TEMPERATURE_FLOOR

STD_RANGE = (0.3, math.e)
"""Of u. A policy surer than this would vary its actions too little to learn from a reward."""
_LEAST_LEVEL = 1e-6
"""Of a quantile; the normal distribution's are infinite at 0 and 1."""
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def raw_from_temperature(temperature: float, max_temperature: float) -> float:
    """Invert T = T_max * sigmoid(u) for a single number in (0, T_max)."""
    return math.log(temperature / (max_temperature - temperature))


def check_policy(base_temperature: float, max_temperature: float, initial_std: float) -> None:
    """Refuse numbers that a policy cannot start from.

    Raises:
        UserError: unless 0.05 <= base_temperature < max_temperature and initial_std is one that a
            policy can have, see `STD_RANGE`.
    """
    least = TEMPERATURE_FLOOR
    arguments.number("max_temperature", max_temperature, above=least)
    arguments.number("base_temperature", base_temperature, least=least, below=max_temperature)
    arguments.number("initial_std", initial_std, least=STD_RANGE[0], most=STD_RANGE[1])


@dataclass(frozen=True, slots=True)
class BoundedGaussian:
    """The distribution of T = T_max * sigmoid(u), u ~ N(mean, std^2), one for each row."""

    mean: Float[Tensor, "*rows"]
    """Mean of u."""
    std: Float[Tensor, "*rows"]
    """Standard deviation of u, above 0."""
    max_temperature: float
    """T_max, above 0.05."""

    def sample(self, generator: torch.Generator) -> Float[Tensor, "*rows"]:
        """Draw u, on the generator's device."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + self.std * noise

    def group(self, size: int, generator: torch.Generator) -> Float[Tensor, " size *rows"]:
        """Draw several u for each row, one of each of as many equally likely parts.

        Each alone is a draw from the distribution; together they cover it, so that what is
        averaged over a group varies less than over independent draws.
        """
        shape, device = self.mean.shape, self.mean.device
        part = torch.arange(size, device=device).view(-1, *(1 for _ in shape))
        level = (part + torch.rand((size, *shape), generator=generator, device=device)) / size
        noise = torch.special.ndtri(level.clamp(_LEAST_LEVEL, 1 - _LEAST_LEVEL))
        return self.mean + self.std * noise

    def temperature(self, raw_action: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """Squash u into T, in [0.05, T_max)."""
        bound = self.max_temperature * (1 - 1e-6)  # sigmoid rounds to 1 in float32 from u = 17
        return (self.max_temperature * torch.sigmoid(raw_action)).clamp(TEMPERATURE_FLOOR, bound)

    def log_prob(self, raw_action: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """Return the log-density of u.

        A ratio of two policies is the same for u as for T, whose Jacobian cancels; PPO uses u
        in both numerator and denominator.
        """
        deviation = (raw_action - self.mean) / self.std
        return -0.5 * deviation.square() - self.std.log() - _HALF_LOG_TWO_PI

    def log_density(self, raw_action: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """Return the log-density of T itself, at T = T_max * sigmoid(u).

        log p(T) = log p(u) - log |dT/du|, with dT/du = T_max * sigmoid(u) * sigmoid(-u).
        """
        log_jacobian = (
            math.log(self.max_temperature) + F.logsigmoid(raw_action) + F.logsigmoid(-raw_action)
        )
        return self.log_prob(raw_action) - log_jacobian

    def entropy(self) -> Float[Tensor, "*rows"]:
        """Return the differential entropy of u, in nats."""
        return 0.5 + _HALF_LOG_TWO_PI + self.std.log()
