"""Proximal policy optimisation of the temperature policy, on closed trajectories."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd import arguments
from rlkd.agent.actor_critic import Actor, Critic
from rlkd.agent.adam import Adam


def clipped_objective(
    log_prob: Float[Tensor, "*rows"],
    log_prob_old: Float[Tensor, "*rows"],
    advantage: Float[Tensor, "*rows"],
    *,
    clip: float,
) -> Float[Tensor, "*rows"]:
    """Return min(rho A, clip(rho, 1 - clip, 1 + clip) A) with rho = exp(log_prob - log_prob_old).

    Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equation 7.
    """
    ratio = (log_prob - log_prob_old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


@dataclass(frozen=True, slots=True)
class Experience:
    """The rows of a rollout, flattened, from which PPO learns."""

    state: Float[Tensor, "row features"]
    raw_action: Float[Tensor, " row"]
    log_prob_old: Float[Tensor, " row"]
    advantage: Float[Tensor, " row"]
    value_target: Float[Tensor, " row"]
    mask: Float[Tensor, " row"]
    """1 where a row is learnt from, else 0."""

    def rows(self, chosen: Tensor) -> "Experience":
        """Pick rows."""
        return Experience(
            self.state[chosen],
            self.raw_action[chosen],
            self.log_prob_old[chosen],
            self.advantage[chosen],
            self.value_target[chosen],
            self.mask[chosen],
        )

    def mean(self, values: Float[Tensor, " row"]) -> Float[Tensor, ""]:
        """Return the mean over the rows that are learnt from."""
        return (values * self.mask).sum() / self.mask.sum().clamp_min(1)


@dataclass(frozen=True, slots=True)
class _Step:
    """The quantities of one descent, measured before it."""

    log_ratio: Float[Tensor, " row"]
    entropy: Float[Tensor, ""]
    actor_loss: Float[Tensor, ""]
    critic_loss: Float[Tensor, ""]


class PPO:
    """Updates an actor and a critic by the clipped objective.

    Args:
        actor: the policy.
        critic: the value function.
        clip: how far the probability ratio may move and still be rewarded. Smaller keeps the
            policy closer to the old one; 0.1 to 0.3.
        epochs: passes over the rollout in one update.
        minibatches: parts that each pass is cut into; more parts learn faster and cost more.
        actor_learning_rate: Adam's, for the actor.
        critic_learning_rate: Adam's, for the critic.
        max_grad_norm: gradients are scaled down to this norm, each network's apart.
        entropy_bonus: weight of the policy's entropy; 0 leaves exploration to the gradient.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self,
        actor: Actor,
        critic: Critic,
        *,
        clip: float,
        epochs: int,
        minibatches: int,
        actor_learning_rate: float,
        critic_learning_rate: float,
        max_grad_norm: float,
        entropy_bonus: float,
    ) -> None:
        arguments.number("clip", clip, above=0)
        arguments.count("epochs", epochs, most=1000)
        arguments.count("minibatches", minibatches, most=1000)
        arguments.number("actor_learning_rate", actor_learning_rate, least=0)
        arguments.number("critic_learning_rate", critic_learning_rate, least=0)
        arguments.number("max_grad_norm", max_grad_norm, above=0)
        arguments.number("entropy_bonus", entropy_bonus, least=0)
        self.actor, self.critic = actor, critic
        self.clip, self.epochs, self.minibatches = clip, epochs, minibatches
        self.max_grad_norm, self.entropy_bonus = max_grad_norm, entropy_bonus
        groups = [
            {"params": list(actor.parameters()), "lr": actor_learning_rate},
            {"params": list(critic.parameters()), "lr": critic_learning_rate},
        ]
        self.optimizer = Adam(groups)  # one: every step has a fixed cost

    def update(
        self, experience: Experience, generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Learn from a rollout and return the update's figures.

        `first_ratio_error` is the largest distance of the first minibatch's ratios from 1, which
        is 0 up to rounding when the old log-probabilities belong to the weights that it starts
        from.
        """
        rows, device = len(experience.mask), generator.device
        parts = [
            experience.rows(chosen)
            for _ in range(self.epochs)
            for chosen in torch.randperm(rows, generator=generator, device=device).chunk(
                self.minibatches
            )
        ]
        first = last = self._step(parts[0])
        for part in parts[1:]:
            last = self._step(part)
        ratio_error = (first.log_ratio.exp() - 1).abs() * parts[0].mask
        return self._figures(last, parts[-1]) | {"first_ratio_error": ratio_error.amax()}

    def gradient(self, experience: Experience) -> Float[Tensor, " weights"]:
        """Return the gradient of the objective by the actor's weights, as they are."""
        log_prob = self.actor(experience.state).log_prob(experience.raw_action)
        ratio = (log_prob - experience.log_prob_old).exp()
        objective = experience.mean(ratio * experience.advantage)
        self.optimizer.zero_grad()
        objective.backward()
        found = [each.grad.flatten() for each in self.actor.parameters() if each.grad is not None]
        self.optimizer.zero_grad()
        return torch.cat(found)

    def _step(self, part: Experience) -> _Step:
        policy = self.actor(part.state)
        log_prob = policy.log_prob(part.raw_action)
        objective = clipped_objective(log_prob, part.log_prob_old, part.advantage, clip=self.clip)
        entropy = part.mean(policy.entropy())
        actor_loss = -part.mean(objective) - self.entropy_bonus * entropy
        critic_loss = part.mean((self.critic(part.state) - part.value_target).square())
        self.optimizer.zero_grad()
        (actor_loss + critic_loss).backward()  # they share no weight
        for network in (self.actor, self.critic):
            nn.utils.clip_grad_norm_(network.parameters(), self.max_grad_norm)
        self.optimizer.step()
        log_ratio = log_prob.detach() - part.log_prob_old
        return _Step(log_ratio, entropy.detach(), actor_loss.detach(), critic_loss.detach())

    def _figures(self, step: _Step, part: Experience) -> dict[str, Tensor]:
        ratio = step.log_ratio.exp()
        return {
            "approx_kl": part.mean(ratio - 1 - step.log_ratio),
            "clip_fraction": part.mean(((ratio - 1).abs() > self.clip).float()),
            "entropy": step.entropy,
            "actor_loss": step.actor_loss,
            "critic_loss": step.critic_loss,
        }
