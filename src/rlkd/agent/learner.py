"""The agent without logits: states in, temperatures out, and what it learns from rewards."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from inspect import signature
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd import arguments
from rlkd.agent.actor_critic import Actor, Critic
from rlkd.agent.additive import AdditiveCorrector
from rlkd.agent.advantage import discounted_sum, generalised_advantage, standardise
from rlkd.agent.calibration import StateUpdater, corrector_loss, redistribute
from rlkd.agent.evidence import Evidence
from rlkd.agent.noise import coherent_noise, draw_field
from rlkd.agent.ppo import PPO, Experience
from rlkd.agent.recurrent import RecurrentCorrector
from rlkd.agent.restoring import restore_optimizer
from rlkd.agent.rollout import Rollout
from rlkd.agent.state import STATE_SIZE
from rlkd.errors import UserError, nearest
from rlkd.temperature.bounded_gaussian import BoundedGaussian

Calibration = Literal["additive", "recurrent", "none"]

_ALPHA, _BETA = 1.0, 0.5
_UPDATER_HIDDEN, _UPDATER_RATE, _UPDATER_ITERATIONS = 16, 1e-3, 10


class Learner(nn.Module):
    """Policy, value function, reward calibration and PPO, on states and rewards alone.

    The policy reads s' = U(s) both when it acts and when it learns, so that what is learnt is
    what acts.

    Args:
        base_temperature: where T starts, in [0.05, max_temperature).
        max_temperature: T_max, above 0.05.
        initial_std: standard deviation of u before anything is learnt, 0.3 to e.
        hidden: width of the actor's and the critic's layers.
        calibration: the corrector: `additive`, `recurrent` (the paper's) or `none`, which
            spreads each reward evenly over its instances.
        state_updater: whether U is used, and learnt where rewards are calibrated; without it
            s' = s.
        calibration_buffer: past trajectories that the additive corrector is fitted on.
        coherence: share in [0, 1] of the exploration's variance that like instances of a batch
            have in common; 0 is the paper's independent noise.
        evidence: whether the actor goes only as far as successive updates agree, see `Evidence`.
        clip: PPO's clip range; smaller keeps the policy closer to the old one; 0.1 to 0.3.
        epochs: PPO's passes over each rollout.
        minibatches: parts of each pass.
        discount: gamma in [0, 1]. 0 is the bandit form: an instance's reward is its own.
        gae_lambda: lambda in [0, 1].
        actor_learning_rate: Adam's.
        critic_learning_rate: Adam's.
        max_grad_norm: gradients are scaled down to this norm.
        entropy_bonus: weight of the policy's entropy in its objective.
        features: of a state, of which the paper's three come first.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self,
        *,
        base_temperature: float = 4.0,
        max_temperature: float = 10.0,
        initial_std: float = 0.5,
        hidden: int = 64,
        calibration: Calibration = "additive",
        state_updater: bool = True,
        calibration_buffer: int = 2048,
        coherence: float = 0.5,
        evidence: bool = True,
        clip: float = 0.2,
        epochs: int = 5,
        minibatches: int = 8,
        discount: float = 0.0,
        gae_lambda: float = 0.0,
        actor_learning_rate: float = 1e-4,
        critic_learning_rate: float = 1e-3,
        max_grad_norm: float = 2.0,
        entropy_bonus: float = 0.0,
        features: int = STATE_SIZE,
    ) -> None:
        super().__init__()
        arguments.flag("state_updater", state_updater)
        arguments.flag("evidence", evidence)
        if calibration not in get_args(Calibration):
            known = ", ".join(get_args(Calibration))
            raise UserError(f"calibration={calibration}: choose one of {known}")
        shares = (("discount", discount), ("gae_lambda", gae_lambda), ("coherence", coherence))
        for name, value in shares:
            arguments.number(name, value, least=0, most=1)
        self.discount, self.gae_lambda, self.coherence = discount, gae_lambda, coherence
        self.actor = Actor(
            base_temperature=base_temperature,
            max_temperature=max_temperature,
            initial_std=initial_std,
            hidden=hidden,
            features=features,
        )
        self.critic = Critic(hidden=hidden, features=features)
        self.updater = (
            StateUpdater(
                hidden=_UPDATER_HIDDEN,
                learning_rate=_UPDATER_RATE,
                iterations=_UPDATER_ITERATIONS,
                features=features,
            )
            if state_updater
            else None
        )
        self.corrector = _corrector(calibration, calibration_buffer)
        count = sum(each.numel() for each in self.actor.parameters())
        self.evidence = Evidence(count) if evidence else None
        self.ppo = PPO(
            self.actor,
            self.critic,
            clip=clip,
            epochs=epochs,
            minibatches=minibatches,
            actor_learning_rate=actor_learning_rate,
            critic_learning_rate=critic_learning_rate,
            max_grad_norm=max_grad_norm,
            entropy_bonus=entropy_bonus,
        )

    def seen(self, state: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows features"]:
        """Return s', the state as the policy reads it."""
        return state if self.updater is None else self.updater(state)

    @torch.no_grad()
    def policy(self, state: Float[Tensor, "*rows features"]) -> BoundedGaussian:
        """Return the distribution of temperatures in each state."""
        return self.actor(self.seen(state))

    @torch.no_grad()
    def explore(
        self,
        state: Float[Tensor, "*rows features"],
        generator: torch.Generator,
        *,
        field: Float[Tensor, " coefficient"] | None = None,
    ) -> tuple[BoundedGaussian, Float[Tensor, "*rows"]]:
        """Return the policy of one batch and an action drawn from it.

        Args:
            state: of each instance.
            generator: on the state's device.
            field: of the coherent part of the noise; give all batches that share a reward the
                same. None draws one.
        """
        policy = self.policy(state)
        if field is None:
            field = draw_field(generator, state.device)
        noise = coherent_noise(state, field, generator, share=self.coherence)
        return policy, policy.mean + policy.std * noise

    def calibrate(
        self, rollout: Rollout
    ) -> tuple[Float[Tensor, "trajectory step"], dict[str, Tensor]]:
        """Fit the corrector and hand out each reward to its instances.

        Returns:
            The calibrated rewards, which sum to each trajectory's reward within the corrector's
            reach, and the figures.
        """
        start, predicted = torch.zeros_like(rollout.reward), torch.zeros_like(rollout.raw_action)
        figures: dict[str, Tensor] = {}
        if self.corrector is not None:
            self.corrector.fit(rollout)
            rollout = replace(rollout, reward=rollout.reward.clamp(*self.corrector.reach()))
            figures["trust"] = self.corrector.trust.clone()
            start, predicted = self.corrector.predict(rollout)
            figures["corrector_loss"] = corrector_loss(
                predicted, rollout, alpha=_ALPHA, beta=_BETA, scale=self.corrector.spread
            )
        rewards = redistribute(start, predicted, rollout)
        return rewards, figures | _reward_figures(rewards, rollout)

    def learn(
        self,
        rollout: Rollout,
        generator: torch.Generator,
        *,
        instance_reward: Float[Tensor, "trajectory step"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Learn from closed trajectories: calibration, the state updater, then PPO.

        Whatever the rollout, no weight becomes NaN or infinite: an update in which one would
        leaves all as it was (`update_left_out`), and so does one without an instance to learn from.

        Args:
            rollout: the trajectories.
            generator: shuffles the minibatches; on the rollout's device.
            instance_reward: the true rewards where somebody knows them; they replace calibration,
                and U stays as it is.

        Returns:
            The figures of the update, as scalar tensors.
        """
        before = {name: tensor.clone() for name, tensor in self._lasting().items()}
        rollout = rollout.finite()
        figures = self._learn(rollout, generator, instance_reward)
        with torch.no_grad():
            after = self._lasting()
            sound = torch.stack([tensor.isfinite().all() for tensor in after.values()]).all()
            kept = sound & rollout.mask.any()
            for name, tensor in after.items():
                old = before.get(name)
                tensor.copy_(torch.where(kept, tensor, 0.0 if old is None else old))
            # A figure of what was not kept would outlast it, as NaN.
            figures = {name: each.nan_to_num(0.0, 0.0, 0.0) for name, each in figures.items()}
        return figures | {
            "rewards_left_out": (~rollout.paid).sum().to(rollout.reward),
            "update_left_out": (~sound).to(rollout.reward),
        }

    def _learn(
        self,
        rollout: Rollout,
        generator: torch.Generator,
        instance_reward: Float[Tensor, "trajectory step"] | None,
    ) -> dict[str, Float[Tensor, ""]]:
        mask = rollout.mask
        with torch.no_grad():
            if instance_reward is None:
                rewards, figures = self.calibrate(rollout)
            else:
                rewards, figures = instance_reward, _reward_figures(instance_reward, rollout)
                del figures["reward_calibrated_sum_error"]  # nothing was handed out
            rewards = standardise(rewards, mask)
        # Rewards over a group's mean say nothing of the state: U would follow their noise, and take
        # the policy along.
        if self.updater is not None and instance_reward is None:
            episode_return = discounted_sum(rewards, self.discount)
            figures["updater_loss"] = self.updater.fit(rollout.state, episode_return, mask)
        with torch.no_grad():
            state = self.seen(rollout.state)
            log_prob_old = self.actor(state).log_prob(rollout.raw_action)
            value = self.critic(state)
            advantage, value_target = generalised_advantage(
                rewards, value, mask, discount=self.discount, gae_lambda=self.gae_lambda
            )
            figures["explained_variance"] = _explained_variance(value, value_target, mask)
            advantage = standardise(advantage, mask)
        experience = Experience(
            state=state.flatten(0, 1),
            raw_action=rollout.raw_action.flatten(),
            log_prob_old=log_prob_old.flatten(),
            advantage=advantage.flatten(),
            value_target=value_target.flatten(),
            mask=mask.flatten(),
        )
        actor_old = [weight.detach().clone() for weight in self.actor.parameters()]
        share = torch.ones_like(rollout.reward[0])
        if self.evidence is not None:
            share = figures["evidence"] = self.evidence.weigh(self.ppo.gradient(experience))
        figures = figures | self.ppo.update(experience, generator)
        share = share * figures.get("trust", 1.0)
        with torch.no_grad():
            for weight, old in zip(self.actor.parameters(), actor_old, strict=True):
                weight.copy_(torch.lerp(old, weight, share))
        return figures

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Learner":
        """Have all optimisers follow the weights, which they are given by reference.

        The weights stay in float32 where a network around them is cast to half precision, in which
        Adam divides by 0.
        """
        fn = dtype_kept(fn)
        super()._apply(fn, recurse)
        for owner in (self.ppo, self.updater, self.corrector):
            optimizer = getattr(owner, "optimizer", None)
            for held in () if optimizer is None else optimizer.state.values():
                held.update(
                    {name: fn(each) for name, each in held.items() if torch.is_tensor(each)}
                )
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimisers' states."""
        return {name: each.state_dict() for name, each in self._optimizers().items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the optimisers' states."""
        for name, each in self._optimizers().items():
            restore_optimizer(each, state[name])

    def _lasting(self) -> dict[str, Tensor]:
        """Return by name all tensors that outlast an update, but for trajectories: live ones."""
        owners = self._optimizers()
        if isinstance(self.corrector, RecurrentCorrector):
            owners["corrector"] = self.corrector.optimizer
        state = self.state_dict(keep_vars=True)
        held = {name: each.detach() for name, each in state.items() if torch.is_tensor(each)}
        for owner, optimizer in owners.items():
            for number, moments in enumerate(optimizer.state.values()):
                held |= {f"{owner}.{number}.{name}": each for name, each in moments.items()}
        return held

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        optimizers: dict[str, torch.optim.Optimizer] = {"ppo": self.ppo.optimizer}
        if self.updater is not None:
            optimizers["updater"] = self.updater.optimizer
        return optimizers


def check_options(owner: type, options: Iterable[str]) -> None:
    """Refuse arguments of a class that it would pass on to a `Learner`, which has none such.

    Raises:
        TypeError: naming the first, and what is like it.
    """
    parameters = {*signature(Learner).parameters} - {"features"}
    known = {*signature(owner).parameters, *parameters} - {"learner_options"}
    for each in options:
        if each not in parameters:
            near = " or ".join(nearest(each, known))
            hint = f"; did you mean {near}?" if near else ""
            raise TypeError(f"{owner.__name__}() got an unexpected keyword argument {each!r}{hint}")


def dtype_kept(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return what moves a tensor as `fn` does, and leaves its type and its values."""
    return lambda tensor: tensor.to(fn(tensor.new_empty(0)).device)


def _corrector(
    calibration: Calibration, buffer: int
) -> AdditiveCorrector | RecurrentCorrector | None:
    if calibration == "none":
        return None
    if calibration == "recurrent":
        return RecurrentCorrector()
    return AdditiveCorrector(degree=3, buffer=buffer)


def _reward_figures(
    rewards: Float[Tensor, "trajectory step"], rollout: Rollout
) -> dict[str, Tensor]:
    even = (rollout.reward / rollout.steps)[:, None].expand_as(rewards)
    return {
        "reward": rollout.raw_reward.mean(),
        "reward_std": rollout.raw_reward.std(correction=0),
        "reward_gated": rollout.reward.mean(),
        "reward_even_std": _masked_std(even, rollout.mask),
        "reward_calibrated_std": _masked_std(rewards, rollout.mask),
        "reward_calibrated_sum": rewards.sum(dim=1).mean(),
        "reward_calibrated_sum_error": (rewards.sum(dim=1) - rollout.reward).abs().amax(),
    }


def _masked_std(values: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum().clamp_min(1)
    centred = (values - (values * mask).sum() / count) * mask
    return (centred.square().sum() / count).sqrt()


def _explained_variance(value: Tensor, value_target: Tensor, mask: Tensor) -> Tensor:
    unexplained = _masked_std(value_target - value, mask).square()
    return 1 - unexplained / _masked_std(value_target, mask).square().clamp_min(1e-12)
