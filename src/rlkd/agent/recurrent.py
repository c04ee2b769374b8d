"""The recurrent corrector: the paper's reading, a network that reads a batch in order."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd import arguments
from rlkd.agent.adam import Adam
from rlkd.agent.calibration import MOST_PASSES, corrector_loss, reach_of
from rlkd.agent.restoring import check_past, restore_optimizer
from rlkd.agent.rollout import Rollout, state_and_action
from rlkd.agent.state import STATE_SIZE

_FIELDS = ("state", "raw_action", "mask", "raw_reward", "reward")


class RecurrentCorrector(nn.Module):
    """g_i = head(LSTM over (s_1, a_1), ..., (s_i, a_i)), trained by Adam on L_C.

    Rewards are standardised over the trajectories that it remembers, and predictions are turned
    back into units of the reward.

    Args:
        hidden: width of the LSTM's state.
        buffer: how many past trajectories it is trained on.
        iterations: descents in one fit.
        learning_rate: Adam's.
        alpha: weight in L_C of the prediction after the last step.
        beta: weight in L_C of the predictions on the way.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self,
        *,
        hidden: int = 16,
        buffer: int = 32,
        iterations: int = 10,
        learning_rate: float = 1e-3,
        alpha: float = 1.0,
        beta: float = 0.5,
    ) -> None:
        super().__init__()
        arguments.count("hidden", hidden, most=arguments.WIDEST)
        arguments.count("buffer", buffer)
        arguments.count("iterations", iterations, most=MOST_PASSES)
        arguments.number("learning_rate", learning_rate, above=0)
        arguments.number("alpha", alpha, least=0)
        arguments.number("beta", beta, least=0)
        self.lstm = nn.LSTM(STATE_SIZE + 1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)
        self.buffer, self.iterations, self.alpha, self.beta = buffer, iterations, alpha, beta
        self.optimizer = Adam(self.parameters(), lr=learning_rate)
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("trust", torch.ones(()), persistent=False)
        # Their sizes grow, so the extra state carries them; as buffers they follow the device.
        for name in _FIELDS:
            self.register_buffer(f"past_{name}", None, persistent=False)

    reward_mean: Tensor
    spread: Tensor
    """Standard deviation of the remembered rewards."""
    trust: Tensor
    """1: an LSTM does not know how far it may be believed."""

    def reach(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the least and the greatest reward that is taken as it is."""
        assert isinstance(self.past_reward, Tensor)
        assert isinstance(self.past_mask, Tensor)
        return reach_of(self.past_reward, self.past_mask.any(dim=1))

    def fit(self, rollout: Rollout) -> None:
        """Descend L_C over the remembered trajectories, the given ones included."""
        past = self._remember(replace(rollout, state=rollout.state[..., :STATE_SIZE]))
        past = replace(past, reward=past.reward.clamp(*self.reach()))
        paid = past.paid.to(past.reward)
        count = paid.sum().clamp_min(1)
        self.reward_mean = (past.reward * paid).sum() / count
        centred = (past.reward - self.reward_mean) * paid
        self.spread = (centred.square().sum() / count).sqrt().clamp_min(1e-12)
        with torch.enable_grad():
            for _ in range(self.iterations):
                self.optimizer.zero_grad()
                self.loss(past).backward()
                self.optimizer.step()

    def loss(self, rollout: Rollout) -> Float[Tensor, ""]:
        """Return L_C, in units of the remembered rewards' variance."""
        _, predicted = self.predict(rollout)
        return corrector_loss(
            predicted, rollout, alpha=self.alpha, beta=self.beta, scale=self.spread
        )

    def predict(
        self, rollout: Rollout
    ) -> tuple[Float[Tensor, " trajectory"], Float[Tensor, "trajectory step"]]:
        """Return the mean remembered reward, and g_1..g_n, in units of the reward."""
        hidden, _ = self.lstm(state_and_action(rollout))
        predicted = self.reward_mean + self.spread * self.head(hidden).squeeze(-1)
        return self.reward_mean.expand(len(predicted)), predicted

    def get_extra_state(self) -> dict[str, Any]:
        """Return the remembered trajectories and the optimiser's state."""
        past = {name: getattr(self, f"past_{name}") for name in _FIELDS}
        return {"past": past, "optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        device, past = self.head.weight.device, state["past"]
        check_past(past, self.buffer)
        restore_optimizer(self.optimizer, state["optimizer"])
        for name in _FIELDS:
            setattr(self, f"past_{name}", None if past[name] is None else past[name].to(device))

    def _remember(self, rollout: Rollout) -> Rollout:
        for name in _FIELDS:
            new, old = getattr(rollout, name), getattr(self, f"past_{name}")
            joined = new if old is None else _stacked(old, new)
            setattr(self, f"past_{name}", joined[-self.buffer :])
        return Rollout(**{name: getattr(self, f"past_{name}") for name in _FIELDS})


def _stacked(old: Tensor, new: Tensor) -> Tensor:
    if old.ndim == 1:
        return torch.cat((old, new))
    steps = max(old.shape[1], new.shape[1])

    def filled(values: Tensor) -> Tensor:
        missing = values.new_zeros(len(values), steps - values.shape[1], *values.shape[2:])
        return torch.cat((values, missing), dim=1)

    return torch.cat((filled(old), filled(new)))
