"""The actor moves as far as its corrector may be believed."""

import torch
from torch import Tensor

from rlkd.agent.learner import Learner
from rlkd.agent.rollout import Rollout, Trajectory


def learnt(trust: float | None) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Learn once; return the actor's weights before and after, and the critic's after."""
    torch.manual_seed(0)
    learner = Learner(hidden=8, epochs=2, minibatches=2, evidence=False)
    generator = torch.Generator().manual_seed(1)
    trajectories = []
    for _ in range(4):
        state = torch.rand(6, 3, generator=generator)
        reward = torch.randn((), generator=generator)
        action = torch.randn(6, generator=generator)
        trajectories.append(Trajectory(state, action, torch.ones(6), reward, reward))
    if trust is not None:
        corrector = learner.corrector
        assert corrector is not None
        fit = corrector.fit

        def fit_and_trust(rollout: Rollout) -> None:
            fit(rollout)
            corrector.trust = torch.tensor(trust)

        corrector.fit = fit_and_trust
    before = [weight.detach().clone() for weight in learner.actor.parameters()]
    figures = learner.learn(Rollout.stack(trajectories), generator)
    if trust is not None:
        assert figures["trust"] == trust
    return before, list(learner.actor.parameters()), list(learner.critic.parameters())


def test_without_trust_the_actor_stays_and_the_critic_learns() -> None:
    before, actor, critic = learnt(0.0)
    _, moved, critic_of_full_trust = learnt(1.0)
    assert all(map(torch.equal, before, actor))
    assert not all(map(torch.equal, before, moved))
    assert all(map(torch.equal, critic, critic_of_full_trust))


def test_half_the_trust_is_half_the_step() -> None:
    before, half, _ = learnt(0.5)
    _, whole, _ = learnt(1.0)
    for start, middle, end in zip(before, half, whole, strict=True):
        torch.testing.assert_close(middle, (start + end) / 2)
