"""The memory of the agent between acting and learning: closed trajectories only."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlkd.agent.state import STATE_SIZE


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One closed trajectory: the instances whose temperatures share a reward, in order.

    Instances that are not learnt from stand at the end, with mask 0.
    """

    state: Float[Tensor, "step features"]
    raw_action: Float[Tensor, " step"]
    mask: Float[Tensor, " step"]
    raw_reward: Float[Tensor, ""]
    """performance_after - performance_before; 0, and no instance, where that is not finite."""
    reward: Float[Tensor, ""]
    """The raw reward times the gate."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name, for a checkpoint."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, slots=True)
class Rollout:
    """Closed trajectories side by side, the shorter ones filled up with mask 0."""

    state: Float[Tensor, "trajectory step features"]
    raw_action: Float[Tensor, "trajectory step"]
    mask: Float[Tensor, "trajectory step"]
    raw_reward: Float[Tensor, " trajectory"]
    reward: Float[Tensor, " trajectory"]

    @classmethod
    def stack(cls, trajectories: list[Trajectory]) -> "Rollout":
        """Put trajectories side by side."""
        steps = max(len(trajectory.mask) for trajectory in trajectories)

        def filled(values: Tensor) -> Tensor:
            missing = steps - len(values)
            return torch.cat((values, values.new_zeros(missing, *values.shape[1:])))

        return cls(
            state=torch.stack([filled(t.state) for t in trajectories]),
            raw_action=torch.stack([filled(t.raw_action) for t in trajectories]),
            mask=torch.stack([filled(t.mask) for t in trajectories]),
            raw_reward=torch.stack([t.raw_reward for t in trajectories]),
            reward=torch.stack([t.reward for t in trajectories]),
        )

    @property
    def steps(self) -> Float[Tensor, " trajectory"]:
        """The number of instances of each trajectory, at least 1."""
        return self.mask.sum(dim=1).clamp_min(1)

    def finite(self) -> "Rollout":
        """Return the rollout without instances and rewards that are not finite: with mask 0."""
        known = self.state.isfinite().all(dim=2) & self.raw_action.isfinite()
        known = known & (self.reward.isfinite() & self.raw_reward.isfinite())[:, None]
        return Rollout(
            state=self.state.nan_to_num(0.0, 0.0, 0.0),
            raw_action=self.raw_action.nan_to_num(0.0, 0.0, 0.0),
            mask=self.mask * known,
            raw_reward=self.raw_reward.nan_to_num(0.0, 0.0, 0.0),
            reward=self.reward.nan_to_num(0.0, 0.0, 0.0),
        )

    def of_steps(self, chosen: slice) -> "Rollout":
        """Return the rollout with some of its steps, its rewards as they are."""
        state, raw_action, mask = (
            each[:, chosen] for each in (self.state, self.raw_action, self.mask)
        )
        return Rollout(state, raw_action, mask, self.raw_reward, self.reward)

    @property
    def paid(self) -> Bool[Tensor, " trajectory"]:
        """True for trajectories that have an instance to learn from."""
        return self.mask.any(dim=1)


_GREATEST_REWARD = 1e6
"""Either way; squares of the rewards that a corrector remembers then stay within float32."""
_UNMEASURED = torch.finfo(torch.float32).max
"""Stands for a measurement that was not finite, which is known on the device alone."""


@dataclass(slots=True)
class Window:
    """The open trajectory: actions that were taken and whose reward is not known yet."""

    performance_before: Tensor | None = None
    """Measured with the weights that the first update starts from; see `measure`."""
    batches: int = 0
    """Number of batches that the actions come from."""
    noise_field: Tensor | None = None
    """The field that its instances share in exploration; drawn with the first batch."""
    states: list[Tensor] = field(default_factory=list[Tensor])
    raw_actions: list[Tensor] = field(default_factory=list[Tensor])
    masks: list[Tensor] = field(default_factory=list[Tensor])

    def measure(self, performance: Float[Tensor, ""]) -> None:
        """Take what was measured before the first update, or remember that it was not finite."""
        performance = performance.detach()
        self.performance_before = torch.where(performance.isfinite(), performance, _UNMEASURED)

    def add(
        self,
        state: Float[Tensor, "batch features"],
        raw_action: Float[Tensor, " batch"],
        learn_from: Bool[Tensor, " batch"],
    ) -> None:
        """Append the actions of one batch."""
        self.batches += 1
        self.states.append(state)
        self.raw_actions.append(raw_action)
        self.masks.append(learn_from.to(raw_action))

    def close(self, performance_after: Float[Tensor, ""], *, gate: float) -> Trajectory | None:
        """Pay the actions, or return None if nothing was measured before them or none was taken.

        A reward that is not finite pays nobody: no instance is learnt from.
        """
        if self.performance_before is None or not self.states:
            return None
        raw_reward = performance_after.detach() - self.performance_before
        paid = raw_reward.isfinite() & (self.performance_before < _UNMEASURED)
        raw_reward = torch.where(paid, raw_reward, 0.0).clamp(-_GREATEST_REWARD, _GREATEST_REWARD)
        mask = torch.cat(self.masks) * paid
        order = torch.argsort(mask, descending=True, stable=True)
        return Trajectory(
            state=torch.cat(self.states)[order],
            raw_action=torch.cat(self.raw_actions)[order],
            mask=mask[order],
            raw_reward=raw_reward,
            reward=gate * raw_reward,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the contents as tensors, for a checkpoint."""
        held: dict[str, Tensor] = {}
        if self.performance_before is not None:
            held["performance_before"] = self.performance_before
        if self.noise_field is not None:
            held["noise_field"] = self.noise_field
        if self.states:
            held["state"] = torch.cat(self.states)
            held["raw_action"] = torch.cat(self.raw_actions)
            held["mask"] = torch.cat(self.masks)
        return held

    def moved(self, move: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> "Window":
        """Return the window with its tensors elsewhere."""
        return Window.from_tensors(move(self.tensors()), batches=self.batches)

    @classmethod
    def from_tensors(cls, held: dict[str, Tensor], *, batches: int) -> "Window":
        """Undo `tensors`."""
        return cls(
            batches=batches,
            performance_before=held.get("performance_before"),
            noise_field=held.get("noise_field"),
            states=[held["state"]] if "state" in held else [],
            raw_actions=[held["raw_action"]] if "raw_action" in held else [],
            masks=[held["mask"]] if "mask" in held else [],
        )


def kept_rows(rows: int, batches: int, passes: int, most: int | None) -> slice:
    """Return which rows of a pass enter the trajectory: every so many of the whole step's.

    The rows of a batch may have an order: each step of a window begins at another one.

    Args:
        rows: of the pass.
        batches: that the window has.
        passes: of a step.
        most: instances of a step that enter it; None for all.
    """
    step, passed = divmod(batches, passes)
    whole = rows * passes
    stride = math.ceil(whole / (most or max(whole, 1))) or 1
    return slice((step - passed * rows) % stride, None, stride)


def state_and_action(rollout: Rollout) -> Float[Tensor, "trajectory step 4"]:
    """Return (s_i, a_i), the action as the fraction sigmoid(u) = T / T_max, in [0, 1].

    Of the state, the paper's three features.
    """
    action = torch.sigmoid(rollout.raw_action).unsqueeze(-1)
    return torch.cat((rollout.state[..., :STATE_SIZE], action), dim=-1)
