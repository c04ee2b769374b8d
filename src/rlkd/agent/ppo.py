"""Proximal policy optimisation of the temperature policy, on closed trajectories."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd.agent.actor_critic import Actor, Critic


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
    """What PPO learns from: the rows of a rollout, flattened."""

    state: Float[Tensor, "row 3"]
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
        self.actor, self.critic = actor, critic
        self.clip, self.epochs, self.minibatches = clip, epochs, minibatches
        self.max_grad_norm, self.entropy_bonus = max_grad_norm, entropy_bonus
        self.actor_optimizer = torch.optim.Adam(
            actor.parameters(), lr=actor_learning_rate, fused=True
        )
        self.critic_optimizer = torch.optim.Adam(
            critic.parameters(), lr=critic_learning_rate, fused=True
        )

    def update(
        self, experience: Experience, generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Learn from a rollout and return the update's figures.

        `first_ratio_error` is the largest distance of the first minibatch's ratios from 1, which
        is 0 up to rounding when the old log-probabilities belong to the weights that it starts
        from.
        """
        figures: dict[str, Tensor] = {}
        rows = len(experience.mask)
        for _ in range(self.epochs):
            order = torch.randperm(rows, generator=generator, device=generator.device)
            for chosen in order.chunk(self.minibatches):
                figures = self._step(experience.rows(chosen), figures)
        return figures

    def _step(self, part: Experience, figures: dict[str, Tensor]) -> dict[str, Tensor]:
        count = part.mask.sum().clamp_min(1)

        def mean(values: Tensor) -> Tensor:
            return (values * part.mask).sum() / count

        policy = self.actor(part.state)
        log_prob = policy.log_prob(part.raw_action)
        objective = clipped_objective(log_prob, part.log_prob_old, part.advantage, clip=self.clip)
        entropy = mean(policy.entropy())
        actor_loss = -mean(objective) - self.entropy_bonus * entropy
        critic_loss = mean((self.critic(part.state) - part.value_target).square())
        self._descend(actor_loss, self.actor, self.actor_optimizer)
        self._descend(critic_loss, self.critic, self.critic_optimizer)

        log_ratio = (log_prob - part.log_prob_old).detach()
        ratio = log_ratio.exp()
        ratio_error = (ratio - 1).abs()
        first_error = (ratio_error * part.mask).amax()
        return {
            "first_ratio_error": figures["first_ratio_error"] if figures else first_error,
            "approx_kl": mean(ratio - 1 - log_ratio),
            "clip_fraction": mean((ratio_error > self.clip).float()),
            "entropy": entropy.detach(),
            "actor_loss": actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
        }

    def _descend(self, loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), self.max_grad_norm)
        optimizer.step()
