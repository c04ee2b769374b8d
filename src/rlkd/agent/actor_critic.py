"""The policy and the value function: two small networks that read an instance's state."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd import arguments
from rlkd.agent.state import STATE_SIZE
from rlkd.temperature.bounded_gaussian import (
    STD_RANGE,
    BoundedGaussian,
    check_policy,
    raw_from_temperature,
)

_LOG_STD_RANGE = math.log(STD_RANGE[0]), math.log(STD_RANGE[1])


def _trunk(features: int, hidden: int) -> list[nn.Module]:
    return [nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()]


class Actor(nn.Module):
    """Maps a state to the Gaussian of u; mean and standard deviation both depend on it.

    The head starts at zero weight, so that every instance starts at the base temperature.

    Args:
        base_temperature: T of the mean action before anything is learnt, in [0.05, T_max).
        max_temperature: T_max; temperatures lie in [0.05, T_max).
        initial_std: standard deviation of u before anything is learnt, 0.3 to e. Larger explores
            more widely; 0.5 spreads T over about 2.3 to 6.0 (5 % to 95 %) around 4.
        hidden: width of both hidden layers.
        features: of a state.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self,
        *,
        base_temperature: float,
        max_temperature: float,
        initial_std: float,
        hidden: int,
        features: int = STATE_SIZE,
    ) -> None:
        super().__init__()
        check_policy(base_temperature, max_temperature, initial_std)
        arguments.count("hidden", hidden, most=arguments.WIDEST)
        arguments.count("features", features, most=arguments.WIDEST)
        self.max_temperature = max_temperature
        head = nn.Linear(hidden, 2)
        nn.init.zeros_(head.weight)
        with torch.no_grad():
            mean = raw_from_temperature(base_temperature, max_temperature)
            head.bias.copy_(torch.tensor([mean, math.log(initial_std)]))
        self.network = nn.Sequential(*_trunk(features, hidden), head)

    def forward(self, state: Float[Tensor, "*rows features"]) -> BoundedGaussian:
        """Return the policy in each state."""
        mean, log_std = self.network(2 * state - 1).unbind(dim=-1)
        return BoundedGaussian(mean, log_std.clamp(*_LOG_STD_RANGE).exp(), self.max_temperature)


class Critic(nn.Module):
    """Maps a state to the return expected from it, in units of the calibrated reward."""

    def __init__(self, *, hidden: int, features: int = STATE_SIZE) -> None:
        super().__init__()
        arguments.count("hidden", hidden, most=arguments.WIDEST)
        arguments.count("features", features, most=arguments.WIDEST)
        self.network = nn.Sequential(*_trunk(features, hidden), nn.Linear(hidden, 1))

    def forward(self, state: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows"]:
        """Return the value of each state."""
        return self.network(2 * state - 1).squeeze(-1)
