"""Each defect in how the released code learns, re-made here, fails where ours passes.

Each test holds the defective line, shows that its result is wrong, and that ours is right; the
others are in tests/test_defects.py.
"""

import pytest
import torch
from tests.agent.loop import drive, logits_of, make_agent, scored, spy_on_learning
from tests.reference.gae_loop import advantages_slowly
from torch import Tensor

from rlkd.agent import instance_state
from rlkd.agent.advantage import generalised_advantage, standardise
from rlkd.agent.calibration import corrector_loss, redistribute
from rlkd.agent.recurrent import RecurrentCorrector
from rlkd.agent.rollout import Rollout


def near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def rollout_of(reward: Tensor, *, steps: int) -> Rollout:
    shape = (len(reward), steps)
    return Rollout(torch.rand(*shape, 3), torch.randn(shape), torch.ones(shape), reward, reward)


def test_defect_reward_measured_before_the_update_it_pays_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accuracies = [0.25, 0.5, 1.0, 0.75]
    history: list[float] = []
    defective: dict[int, float] = {}
    for batch, accuracy in enumerate(accuracies):
        if len(history) >= 2:
            defective[batch - 1] = history[-1] - history[-2]  # paid to the actions of batch - 1
        history.append(accuracy)
    expected = [0.25, 0.5, -0.25]  # from batch b to b + 1
    assert all(defective[batch] != expected[batch] for batch in defective)
    assert all(defective[batch] == expected[batch - 1] for batch in defective)

    agent = make_agent(update_interval=3)
    rollouts = spy_on_learning(agent, monkeypatch)
    for accuracy in accuracies:
        seen = scored(round(8 * accuracy))
        agent(seen.student, seen.teacher, seen.target)
    assert rollouts[0].raw_reward.tolist() == expected


def test_defect_reward_compares_different_batches() -> None:
    # A student that nothing has changed has earned nothing.
    one, other = logits_of(1), logits_of(2)
    agent = make_agent(update_interval=1)
    defective = agent.performance(other.student, other.target) - agent.performance(
        one.student, one.target
    )
    assert defective != 0
    for source in ("same_batch", "probe"):
        agent = make_agent(update_interval=1, reward_source=source, probe_interval=1)
        for seen in (one, other, one):
            agent(seen.student, seen.teacher, seen.target)
            scored_again = seen if source == "same_batch" else one
            agent.observe(agent.performance(scored_again.student, scored_again.target))
        assert agent.updates >= 1
        assert agent.diagnostics()["reward"] == 0


class DefectiveBuffer:
    """The released buffer: finish_path a second time, without a reset in between."""

    def __init__(self, reward: Tensor) -> None:
        self.reward, self.value = reward.clone(), torch.zeros_like(reward)
        self.advantage = torch.zeros_like(reward)
        self.start, self.pointer = 0, len(reward)

    def finish_path(self) -> None:
        path = slice(self.start, self.pointer)
        steps = len(self.reward[path])
        if steps:
            found = advantages_slowly(
                self.reward[path][None],
                self.value[path][None],
                [steps],
                discount=0.99,
                gae_lambda=0.95,
            )
            self.advantage[path] = torch.tensor(found[0])
        self.start = self.pointer


def test_defect_calibrated_reward_never_reaches_the_advantage() -> None:
    sparse = torch.tensor([0.0, 0.0, 0.0, 1.0])
    calibrated = torch.tensor([0.7, 0.1, 0.1, 0.1])
    buffer = DefectiveBuffer(sparse)
    buffer.finish_path()
    before = buffer.advantage.clone()
    buffer.reward.copy_(calibrated)
    buffer.finish_path()
    expected = torch.tensor(
        advantages_slowly(calibrated[None], torch.zeros(1, 4), [4], discount=0.99, gae_lambda=0.95)
    )
    assert torch.equal(buffer.advantage, before)
    assert not near(buffer.advantage, expected[0])
    found, _ = generalised_advantage(
        calibrated[None], torch.zeros(1, 4), torch.ones(1, 4), discount=0.99, gae_lambda=0.95
    )
    assert near(found, expected)


@pytest.mark.parametrize("other", ["additive", "recurrent"])
def test_defect_calibration_changes_nothing_that_is_learnt(other: str) -> None:
    # A silent no-op shows as identical curves.
    def learnt(calibration: str) -> list[Tensor]:
        agent = make_agent(calibration=calibration, state_updater=False)
        drive(agent, range(9))
        return [parameter.detach() for parameter in agent.learner.actor.parameters()]

    assert all(map(torch.equal, learnt("none"), learnt("none")))
    assert not all(map(torch.equal, learnt("none"), learnt(other)))


def test_defect_correction_applied_twice() -> None:
    start, predicted = torch.zeros(1), torch.tensor([[0.1, 0.3, 0.2]])
    rollout = rollout_of(torch.tensor([0.8]), steps=3)
    contribution = torch.tensor([[0.1, 0.2, -0.1]])
    share = (rollout.reward - contribution.sum()) / 3
    defective = contribution + share + share
    assert not near(defective.sum(), rollout.reward.sum())
    assert near(redistribute(start, predicted, rollout).sum(), rollout.reward.sum())


def test_defect_square_of_the_mean_for_the_mean_of_squares() -> None:
    # Errors of +1 and -1 are not a perfect prediction.
    rollout = rollout_of(torch.tensor([0.5]), steps=2)
    predicted = torch.tensor([[1.5, -0.5]])
    defective = torch.mean(predicted - rollout.reward[:, None]) ** 2
    assert defective == 0
    assert corrector_loss(predicted, rollout, alpha=0.0, beta=1.0) == 1


def test_defect_recurrent_network_without_memory() -> None:
    linear = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Identity())
    rollout = rollout_of(torch.randn(3), steps=5)
    first_moved = rollout.raw_action.clone()
    first_moved[:, 0] += 2
    moved = Rollout(rollout.state, first_moved, rollout.mask, rollout.reward, rollout.reward)

    def defective(given: Rollout) -> Tensor:
        return linear(torch.cat((given.state, given.raw_action[..., None]), -1)).squeeze(-1)

    assert torch.equal(defective(rollout)[:, 1:], defective(moved)[:, 1:])
    corrector = RecurrentCorrector()
    (_, before), (_, after) = corrector.predict(rollout), corrector.predict(moved)
    assert ((before - after)[:, -1].abs() > 0).all()


def test_defect_one_actor_call_for_every_instance() -> None:
    agent = make_agent(update_interval=100)
    calls: list[Tensor] = []
    agent.learner.actor.register_forward_pre_hook(lambda _, given: calls.append(given[0]))
    seen = logits_of(0, rows=64)
    state = instance_state(seen.student, seen.teacher)
    defective = [agent.learner.policy(row[None]).mean for row in state]
    assert len(calls) == 64
    calls.clear()
    agent(seen.student, seen.teacher, seen.target)
    assert len(calls) == 1
    assert near(agent.learner.policy(state).mean, torch.cat(defective))


def test_defect_standardised_advantage_with_its_mean_added_back() -> None:
    advantage = 5 + torch.randn(4, 16)
    mean, variance = advantage.mean(), advantage.var(correction=0)
    defective = (advantage - mean) * torch.rsqrt(variance + 1e-8) + mean
    assert defective.mean() > 4
    found = standardise(advantage, torch.ones(4, 16))
    assert found.mean().abs() < 1e-5
    assert near(found.std(correction=0), torch.ones(()))
