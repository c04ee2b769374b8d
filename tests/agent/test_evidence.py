"""The actor goes as far as successive updates agree: not at all for rewards of pure noise."""

from dataclasses import replace

import pytest
import torch
from benchmarks.bandit import play

from rlkd.agent.evidence import Evidence
from rlkd.agent.learner import Learner


def shares(signal: float, updates: int, *, weights: int = 50, seed: int = 0) -> torch.Tensor:
    """Weigh gradients of a fixed direction and of noise, both of length about 1."""
    generator = torch.Generator().manual_seed(seed)
    evidence, towards = Evidence(weights), torch.zeros(weights)
    towards[3] = signal
    found = [
        evidence.weigh(towards + torch.randn(weights, generator=generator) / weights**0.5)
        for _ in range(updates)
    ]
    return torch.stack(found)


def test_nothing_is_known_at_first() -> None:
    evidence = Evidence(4)
    assert evidence.weigh(torch.tensor([1.0, 2, 3, 4])) == 0
    assert evidence.weigh(torch.zeros(4)) == 0  # of an update that says nothing
    # One agreement of 1, less a standard error of at least 0.3.
    torch.testing.assert_close(evidence.weigh(torch.tensor([2.0, 4, 6, 8])), torch.tensor(0.7))


def test_it_is_the_share_of_signal_less_an_error() -> None:
    noise, weak, strong = (shares(signal, 400)[100:].mean() for signal in (0.0, 1.0, 5.0))
    assert noise < 0.02
    assert 0.35 < weak < 0.5  # s^2 / (s^2 + n^2) = 0.5
    assert 0.85 < strong < 25 / 26


def test_what_was_agreed_on_is_forgotten() -> None:
    evidence = Evidence(8)
    for _ in range(50):
        evidence.weigh(torch.ones(8))
    turned = [float(evidence.weigh(torch.randn(8))) for _ in range(60)]
    assert turned[0] > 0.8
    assert sum(turned[-20:]) / 20 < 0.2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("calibration", [pytest.param("none", marks=pytest.mark.long), "additive"])
def test_rewards_of_pure_noise_leave_the_policy_where_it_starts(calibration: str) -> None:
    wandered: dict[bool, float] = {}
    for evidence in (False, True):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        learner = Learner(calibration=calibration, evidence=evidence)  # type: ignore[arg-type]
        states = torch.rand(256, 3, generator=generator)
        before = learner.policy(states)
        for _ in range(20):
            rollout, _ = play(learner, 0.0, generator)
            noise = torch.randn(len(rollout.reward), generator=generator)
            learner.learn(replace(rollout, reward=noise, raw_reward=noise), generator)
        after = learner.policy(states)
        moved = after.temperature(after.mean) - before.temperature(before.mean)
        wandered[evidence] = float(moved.abs().mean())
    assert wandered[True] < 0.1  # of a temperature
    assert wandered[True] < 0.3 * wandered[False]
