import copy
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import explained_variance

from rlkd.agent import Learner
from rlkd.agent.advantage import discounted_sum
from rlkd.agent.ppo import Experience
from rlkd.agent.rollout import Rollout
from rlkd.errors import UserError

CALIBRATIONS = ["additive", "recurrent", "none"]


def make_learner(**options: Any) -> Learner:
    small: dict[str, Any] = {"hidden": 8, "epochs": 2, "minibatches": 2}
    return Learner(**(small | options))


def rollout_of(
    learner: Learner, *, trajectories: int = 4, steps: int = 6, seed: int = 0
) -> Rollout:
    """Trajectories on the learner's own policy; the second is short."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.rand(trajectories, steps, 3, generator=generator)
    mask = torch.ones(trajectories, steps)
    mask[1, steps // 2 :] = 0
    reward = 0.1 * torch.randn(trajectories, generator=generator)
    action = learner.policy(state).sample(generator)
    return Rollout(state, action, mask, 2 * reward, reward)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_the_first_ratio_is_one_with_the_state_updater_on(calibration: str) -> None:
    learner = make_learner(calibration=calibration, actor_learning_rate=1e-2)
    for update in range(4):
        figures = learner.learn(rollout_of(learner, seed=update), generator())
        assert figures["first_ratio_error"] <= 1e-6


def test_log_probabilities_kept_from_acting_would_not_give_ratio_one() -> None:
    # U moves between acting and learning: this is why the old ones are computed anew.
    learner = make_learner(calibration="none", actor_learning_rate=1e-2)
    for update in range(5):
        learner.learn(rollout_of(learner, seed=update), generator())
    rollout = rollout_of(learner, seed=5)
    acting = learner.policy(rollout.state).log_prob(rollout.raw_action)
    rewards, _ = learner.calibrate(rollout)
    assert learner.updater is not None
    learner.updater.fit(rollout.state, rewards, rollout.mask)
    anew = learner.policy(rollout.state).log_prob(rollout.raw_action)
    assert ((anew - acting).exp() - 1).abs().max() > 1e-5


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_calibrated_rewards_sum_to_each_batchs_reward(calibration: str) -> None:
    learner = make_learner(calibration=calibration)
    for update in range(4):
        rollout = rollout_of(learner, seed=update)
        rewards, _ = learner.calibrate(rollout)
        torch.testing.assert_close(rewards.sum(dim=1), rollout.reward, rtol=0, atol=1e-5)
        assert (rewards[rollout.mask == 0] == 0).all()


def test_without_calibration_each_reward_is_spread_evenly() -> None:
    learner = make_learner(calibration="none")
    rollout = rollout_of(learner)
    rewards, figures = learner.calibrate(rollout)
    expected = rollout.reward[:, None] / torch.tensor([6.0, 3.0, 6.0, 6.0])[:, None]
    torch.testing.assert_close(rewards, expected * rollout.mask)
    assert "trust" not in figures


@pytest.mark.parametrize("calibration", ["additive", "recurrent"])
def test_the_correctors_loss_is_reported_in_units_of_the_spread(calibration: str) -> None:
    learner = make_learner(calibration=calibration)
    rollout = rollout_of(learner)
    _, figures = learner.calibrate(rollout)
    assert learner.corrector is not None
    _, predicted = learner.corrector.predict(rollout)
    loss, rewards = 0.0, rollout.reward.tolist()
    trend = np.polyval(np.polyfit(range(4), rewards, 1), range(4))
    spread = np.std(rewards) if calibration == "recurrent" else np.std(rewards - trend)
    for row, (reward, count) in enumerate(zip(rewards, [6, 3, 6, 6], strict=True)):
        errors = [((g - reward) / spread) ** 2 for g in predicted[row, :count].tolist()]
        loss += (errors[-1] + 0.5 * sum(errors) / count) / 4
    assert figures["corrector_loss"].item() == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("state_updater", [True, False])
def test_the_policy_reads_the_updated_state(state_updater: bool) -> None:
    learner = make_learner(calibration="none", state_updater=state_updater)
    torch.nn.init.normal_(learner.actor.network[-1].weight)  # pyright: ignore
    state = torch.rand(9, 3)
    # m starts at sigmoid(3) = 0.95257413 everywhere
    expected = learner.actor(0.95257413 * state if state_updater else state)
    torch.testing.assert_close(learner.policy(state).mean, expected.mean)


def test_explained_variance_equals_that_of_stable_baselines3() -> None:
    learner = make_learner(calibration="none", state_updater=False)
    rollout = rollout_of(learner)
    truth = torch.randn(4, 6) * rollout.mask
    value = learner.critic(rollout.state).detach()
    kept = rollout.mask.bool()
    target = (truth - truth[kept].mean()) / truth[kept].std(correction=0)
    figures = learner.learn(rollout, generator(), instance_reward=truth)
    expected = explained_variance(value[kept].numpy(), target[kept].numpy())
    assert figures["explained_variance"].item() == pytest.approx(float(expected), rel=1e-4)


def test_known_rewards_replace_calibration() -> None:
    learner = make_learner(calibration="additive")
    truth = torch.randn(4, 6)
    rollout = rollout_of(learner)
    figures = learner.learn(rollout, generator(), instance_reward=truth * rollout.mask)
    assert "corrector_loss" not in figures


def test_the_reward_figures_by_hand() -> None:
    learner = make_learner(calibration="none", state_updater=False)
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    rollout = Rollout(
        torch.rand(2, 2, 3),
        torch.randn(2, 2),
        mask,
        raw_reward=torch.tensor([0.2, 0.6]),
        reward=torch.tensor([0.1, 0.3]),
    )
    figures = learner.learn(rollout, generator())
    # evenly: 0.05, 0.05, 0.3, of mean 0.4/3 and variance 2/9 * 0.25^2
    spread = np.std([0.05, 0.05, 0.3])
    expected = {
        "reward": 0.4,
        "reward_std": 0.2,
        "reward_gated": 0.2,
        "reward_even_std": spread,
        "reward_calibrated_std": spread,
        "reward_calibrated_sum": 0.2,
    }
    found = {name: figures[name].item() for name in expected}
    assert found == pytest.approx(expected, rel=1e-5)
    assert figures["reward_calibrated_sum_error"] < 1e-6


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_equal_rewards_teach_nothing_and_break_nothing(calibration: str) -> None:
    learner = make_learner(calibration=calibration, state_updater=False)
    for reward in (0.0, 0.1):
        rollout = rollout_of(learner, steps=6)
        rollout = Rollout(
            rollout.state,
            rollout.raw_action,
            torch.ones(4, 6),
            torch.full((4,), reward),
            torch.full((4,), reward),
        )
        figures = learner.learn(rollout, generator())
        assert all(torch.isfinite(figure) for figure in figures.values())
    assert all(torch.isfinite(parameter).all() for parameter in learner.parameters())


def test_the_updater_learns_the_discounted_return(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner(calibration="none", discount=0.9, gae_lambda=0.95)
    assert learner.updater is not None
    fit, seen = learner.updater.fit, []

    def noted(state: torch.Tensor, episode_return: torch.Tensor, mask: torch.Tensor):
        seen.append(episode_return)
        return fit(state, episode_return, mask)

    learner.updater.fit = noted
    truth = torch.randn(3, 5)
    rollout = Rollout(
        torch.rand(3, 5, 3), torch.randn(3, 5), torch.ones(3, 5), torch.zeros(3), torch.zeros(3)
    )
    monkeypatch.setattr(learner, "calibrate", lambda _: (truth, {}))
    learner.learn(rollout, generator())
    standard = (truth - truth.mean()) / truth.std(correction=0)
    torch.testing.assert_close(seen[0], discounted_sum(standard, 0.9), rtol=1e-5, atol=1e-6)


def test_ppo_is_trained_on_updated_states_and_standardised_advantages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = make_learner(calibration="none")
    for update in range(3):
        learner.learn(rollout_of(learner, seed=update), generator())
    seen: list[Experience] = []

    def noted(experience: Experience, _: torch.Generator) -> dict[str, torch.Tensor]:
        seen.append(experience)
        return {}

    monkeypatch.setattr(learner.ppo, "update", noted)
    rollout, truth = rollout_of(learner, seed=9), torch.randn(4, 6)
    learner.learn(rollout, generator(), instance_reward=truth * rollout.mask)
    assert learner.updater is not None
    state, kept = learner.updater(rollout.state), rollout.mask.flatten().bool()
    standard = (truth.flatten() - truth.flatten()[kept].mean()) / truth.flatten()[kept].std(
        correction=0
    )
    raw_advantage = (standard - learner.critic(state).flatten())[kept]
    expected = (raw_advantage - raw_advantage.mean()) / raw_advantage.std(correction=0)
    torch.testing.assert_close(seen[0].state, state.flatten(0, 1))
    torch.testing.assert_close(
        seen[0].log_prob_old, learner.actor(state).log_prob(rollout.raw_action).flatten()
    )
    torch.testing.assert_close(seen[0].advantage[kept], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[0].value_target[kept], standard[kept], rtol=1e-4, atol=1e-5)
    assert (seen[0].advantage[~kept] == 0).all()


def test_units_of_the_reward_do_not_matter() -> None:
    first = make_learner(calibration="none")
    second = copy.deepcopy(first)
    # deepcopy leaves the copied optimisers on the copied weights
    rollout = rollout_of(first)
    scaled = Rollout(
        rollout.state,
        rollout.raw_action,
        rollout.mask,
        1024 * rollout.raw_reward,
        1024 * rollout.reward,
    )
    first.learn(rollout, generator())
    second.learn(scaled, generator())
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_temperature": 0.0}, "max_temperature=0.0: give a number above 0"),
        ({"base_temperature": 10.0}, "base_temperature=10.0: give a number from 0.05 to below 10"),
        ({"base_temperature": -1.0}, "base_temperature=-1.0: give a number from 0.05 to below 10"),
        ({"initial_std": 0.2}, "initial_std=0.2: give a number from 0.3 to 2.71828"),
        ({"calibration": "magic"}, "calibration=magic: choose one of additive, recurrent, none"),
        ({"discount": 1.5}, "discount=1.5: give a number from 0 to 1"),
        ({"gae_lambda": -0.1}, "gae_lambda=-0.1: give a number from 0 to 1"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_learner(**options)


def test_rewards_over_a_groups_mean_leave_the_state_as_it_is() -> None:
    """They say nothing of a state: the updater followed their noise, and took the policy along."""
    torch.manual_seed(0)
    learner = Learner(hidden=8, epochs=1, minibatches=1, calibration="none")
    state = torch.rand(4, 16, 3)
    before = learner.seen(state)
    action = torch.randn(4, 16)
    ones = torch.ones(4)
    rollout = Rollout(state, action, torch.ones(4, 16), ones, ones)
    reward = torch.randn(4, 16)
    for _ in range(3):
        learner.learn(rollout, torch.Generator().manual_seed(0), instance_reward=reward)
    assert torch.equal(learner.seen(state), before)
    learner.learn(rollout, torch.Generator().manual_seed(0))
    assert not torch.equal(learner.seen(state), before)
