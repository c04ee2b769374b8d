import copy

import pytest
import torch

from rlkd.agent.recurrent import RecurrentCorrector
from rlkd.agent.rollout import Rollout


def rollout_of(trajectories: int, *, steps: int = 6, seed: int = 0, level: float = 0.0) -> Rollout:
    """Rewards grow with the mean action; the last trajectory is short."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.rand(trajectories, steps, 3, generator=generator)
    raw_action = torch.randn(trajectories, steps, generator=generator)
    mask = torch.ones(trajectories, steps)
    mask[-1, steps // 2 :] = 0
    reward = level + 0.01 * (raw_action * mask).sum(dim=1)
    return Rollout(state, raw_action, mask, 2 * reward, reward)


def test_the_loss_falls_on_the_trajectories_that_are_remembered() -> None:
    corrector, rollout = RecurrentCorrector(buffer=8, learning_rate=1e-2), rollout_of(8)
    corrector.fit(rollout)
    before = corrector.loss(rollout).detach()
    for _ in range(8):
        corrector.fit(rollout)
    assert corrector.loss(rollout) < 0.5 * before


def test_predictions_are_in_units_of_the_reward() -> None:
    # rewards lie within 100 +- 0.1; an untrained network in units of their spread says 100 +- 0.1
    corrector, rollout = RecurrentCorrector(), rollout_of(8, level=100.0)
    corrector.fit(rollout)
    start, predicted = corrector.predict(rollout)
    assert torch.allclose(start, rollout.reward.mean().expand(8))
    assert (predicted - 100).abs().max() < 0.2


def test_a_prediction_does_not_know_the_instances_to_come() -> None:
    corrector, rollout = RecurrentCorrector(), rollout_of(4)
    corrector.fit(rollout)
    changed = Rollout(
        rollout.state,
        torch.cat((rollout.raw_action[:, :4], 5 + rollout.raw_action[:, 4:]), dim=1),
        rollout.mask,
        rollout.raw_reward,
        rollout.reward,
    )
    before, after = corrector.predict(rollout)[1], corrector.predict(changed)[1]
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_what_stands_outside_the_mask_teaches_nothing() -> None:
    one, other = RecurrentCorrector(), RecurrentCorrector()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    rollout = rollout_of(4)
    state = torch.where(rollout.mask[..., None] > 0, rollout.state, 7.0)
    changed = Rollout(state, rollout.raw_action, rollout.mask, rollout.raw_reward, rollout.reward)
    one.fit(rollout)
    other.fit(changed)
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-7)


@pytest.mark.parametrize("first_steps", [4, 8])
def test_only_the_last_trajectories_are_remembered_whatever_their_lengths(first_steps: int) -> None:
    corrector = RecurrentCorrector(buffer=6)
    corrector.fit(rollout_of(4, steps=first_steps, level=50.0))
    corrector.fit(rollout_of(4, seed=1))
    old, new = rollout_of(4, steps=first_steps, level=50.0), rollout_of(4, seed=1)
    expected = torch.cat((old.reward[2:], new.reward)).mean()
    assert torch.allclose(corrector.reward_mean, expected)
    corrector.fit(rollout_of(6, seed=2))
    assert torch.allclose(corrector.reward_mean, rollout_of(6, seed=2).reward.mean())


def test_a_restored_corrector_goes_on_exactly() -> None:
    corrector = RecurrentCorrector()
    corrector.fit(rollout_of(4))
    restored = RecurrentCorrector()
    restored.load_state_dict(copy.deepcopy(corrector.state_dict()))
    for each in (corrector, restored):
        each.fit(rollout_of(4, seed=1))
    probe = rollout_of(4, seed=2)
    assert torch.equal(corrector.predict(probe)[1], restored.predict(probe)[1])


def test_the_optimiser_is_part_of_the_state() -> None:
    # the buggy restore: weights alone, Adam's moments and past trajectories forgotten
    corrector = RecurrentCorrector()
    corrector.fit(rollout_of(4))
    forgetful = RecurrentCorrector()
    forgetful.load_state_dict(
        {k: v for k, v in corrector.state_dict().items() if k != "_extra_state"}, strict=False
    )
    for each in (corrector, forgetful):
        each.fit(rollout_of(4, seed=1))
    probe = rollout_of(4, seed=2)
    assert not torch.allclose(corrector.predict(probe)[1], forgetful.predict(probe)[1])


def test_it_learns_inside_no_grad_as_the_learner_calls_it() -> None:
    corrector = RecurrentCorrector()
    before = corrector.head.weight.detach().clone()
    with torch.no_grad():
        corrector.fit(rollout_of(4))
    assert not torch.equal(before, corrector.head.weight)
