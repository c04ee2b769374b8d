"""Instance reward calibration: one reward for a whole batch, handed out to its instances."""

from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlkd import arguments
from rlkd.agent.adam import Adam
from rlkd.agent.rollout import Rollout
from rlkd.agent.state import STATE_SIZE

MOST_PASSES = 1000
"""Descents over the same trajectories in one update."""
_REACH, _QUARTILES = 10.0, (0.25, 0.5, 0.75)


class Corrector(Protocol):
    """C: predicts, from the first i states and actions, the reward of the whole batch."""

    spread: Tensor
    """The spread of the rewards that it remembers, above 0."""
    trust: Tensor
    """Reliability of its last fit, in [0, 1]: the actor takes this share of its step."""

    def reach(self) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest reward that it takes as it is, see `reach_of`."""
        ...

    def fit(self, rollout: Rollout) -> None:
        """Learn from closed trajectories and from those that came before."""
        ...

    def predict(
        self, rollout: Rollout
    ) -> tuple[Float[Tensor, " trajectory"], Float[Tensor, "trajectory step"]]:
        """Return g_0, the prediction before any instance is seen, and g_1..g_n."""
        ...


def reach_of(
    rewards: Float[Tensor, " trajectory"], present: Bool[Tensor, " trajectory"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the range of rewards that are learnt from as they are.

    One reward out of all proportion would fill the corrector's memory with its own spread, and
    stop the actor until it is forgotten: it counts as `_REACH` interquartile ranges away from the
    median. Where half of the rewards are the same there is no such range, and none is out of it.

    Args:
        rewards: those that are remembered.
        present: which of them there are.
    """
    levels = torch.tensor(_QUARTILES).to(rewards, non_blocking=True)
    known = torch.where(present, rewards, torch.nan)
    low, middle, high = known.nanquantile(levels).unbind()
    distance = torch.where(high > low, _REACH * (high - low), torch.inf)
    return middle.nan_to_num() - distance, middle.nan_to_num() + distance


def redistribute(
    start: Float[Tensor, " trajectory"],
    predicted: Float[Tensor, "trajectory step"],
    rollout: Rollout,
) -> Float[Tensor, "trajectory step"]:
    """Hand out each reward: r'_i = g_i - g_{i-1}, what is missing to r_b spread equally.

    The result sums to r_b over each trajectory's instances and is 0 outside the mask, whatever
    the prediction. Return-equivalent as in Arjona-Medina et al., "RUDDER: Return Decomposition
    for Delayed Rewards" (NeurIPS 2019).
    """
    before = torch.cat((start[:, None], predicted[:, :-1]), dim=1)
    contribution = (predicted - before) * rollout.mask
    missing = rollout.reward - contribution.sum(dim=1)
    return contribution + rollout.mask * (missing / rollout.steps)[:, None]


def corrector_loss(
    predicted: Float[Tensor, "trajectory step"],
    rollout: Rollout,
    *,
    alpha: float,
    beta: float,
    scale: Float[Tensor, ""] | float = 1.0,
) -> Float[Tensor, ""]:
    r"""L_C = alpha (g_n - r_b)^2 + beta/n sum_i (g_i - G_i)^2, the mean over trajectories.

    G_i, the return at step i, is r_b at every step: a batch is paid once, and what g_i predicts
    is that payment as far as the first i steps tell it.

    Args:
        predicted: g_1..g_n.
        rollout: the trajectories.
        alpha: weight of the last prediction.
        beta: weight of the predictions on the way.
        scale: both sides are divided by it, the spread of rewards.
    """
    error = ((predicted - rollout.reward[:, None]) / scale).square() * rollout.mask
    last = (rollout.steps.long() - 1)[:, None]
    at_end = error.gather(1, last).squeeze(1)
    return (alpha * at_end + beta * error.sum(dim=1) / rollout.steps).mean()


class StateUpdater(nn.Module):
    """U: weighs the features of a state, s' = m(s) * s with each of m in (0, 1), learnt.

    An estimator predicts the return from s'; both descend L_U = mean_i (estimator(s'_i) - G_i)^2.
    m starts near 0.95, so that s' starts near s.

    Args:
        hidden: width of the hidden layer of either network.
        learning_rate: Adam's.
        iterations: descents in one update.
        features: of a state.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self, *, hidden: int, learning_rate: float, iterations: int, features: int = STATE_SIZE
    ) -> None:
        super().__init__()
        arguments.count("hidden", hidden, most=arguments.WIDEST)
        arguments.number("learning_rate", learning_rate, above=0)
        arguments.count("iterations", iterations, most=MOST_PASSES)
        arguments.count("features", features, most=arguments.WIDEST)
        gate = nn.Linear(hidden, features)
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, 3.0)
        self.weight = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), gate)
        self.estimator = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.iterations = iterations
        self.optimizer = Adam(self.parameters(), lr=learning_rate)

    def forward(self, state: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows features"]:
        """Return s'."""
        return torch.sigmoid(self.weight(state)) * state

    def loss(
        self,
        state: Float[Tensor, "*rows features"],
        episode_return: Float[Tensor, "*rows"],
        mask: Float[Tensor, "*rows"],
    ) -> Float[Tensor, ""]:
        """Return L_U over the masked steps."""
        error = self.estimator(self(state)).squeeze(-1) - episode_return
        return (error.square() * mask).sum() / mask.sum().clamp_min(1)

    def fit(
        self,
        state: Float[Tensor, "*rows features"],
        episode_return: Float[Tensor, "*rows"],
        mask: Float[Tensor, "*rows"],
    ) -> Float[Tensor, ""]:
        """Descend L_U and return its value before the last descent."""
        loss = episode_return.new_zeros(())
        for _ in range(self.iterations):
            self.optimizer.zero_grad()
            loss = self.loss(state, episode_return, mask)
            loss.backward()
            self.optimizer.step()
        return loss.detach()
