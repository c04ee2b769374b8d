"""The agent that is paid by a look-ahead: what it is paid, and what it learns."""

from typing import Any

import pytest
import torch
from tests.agent.loop import logits_of, make_agent
from torch import Tensor

from rlkd.agent import TemperatureAgent
from rlkd.agent.rollout import Rollout
from rlkd.agent.state import instance_state
from rlkd.checks import values_unchecked
from rlkd.errors import Notice, UserError
from rlkd.temperature.look_ahead import Gains


def looking(**options: Any) -> TemperatureAgent:
    return make_agent(reward_source="look_ahead", probe_interval=1, **options)


def step(agent: TemperatureAgent, batch: int, gain_of: Any, *, rows: int = 8) -> Tensor:
    seen = logits_of(batch, rows=rows)
    if agent.look_ahead_due:
        agent.look_ahead(lambda of: gain_of(seen, of(seen.student).student))
    return agent(seen.student, seen.teacher, seen.target).student


def best_at(seen: Any, temperature: Tensor) -> Gains:
    """Gains that are greatest at T = 2 + 6 v, whatever else."""
    best = 2 + 6 * instance_state(seen.student, seen.teacher)[:, 2]
    return Gains(-(temperature - best).square(), torch.ones_like(temperature))


def error(agent: TemperatureAgent) -> float:
    seen = logits_of(10**6, rows=512)
    agent.eval()
    given = agent(seen.student, seen.teacher, seen.target).student
    agent.train()
    return float((given - 2 - 6 * instance_state(seen.student, seen.teacher)[:, 2]).square().mean())


@pytest.mark.parametrize("group_size", [8, 1])
def test_it_learns_the_best_temperature_of_each_state(group_size: int) -> None:
    agent = looking(group_size=group_size, epochs=5, minibatches=8, hidden=32)
    start = error(agent)
    for batch in range(36 if group_size > 1 else 18):
        step(agent, batch, best_at, rows=64)
    assert error(agent) < start / (10 if group_size > 1 else 1.3)


class Spy:
    """Keeps what a learner is given, and learns nothing."""

    def __init__(self, agent: TemperatureAgent, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[tuple[Rollout, Tensor]] = []
        monkeypatch.setattr(agent.learner, "learn", self.learn)

    def learn(self, rollout: Rollout, _: Any, *, instance_reward: Tensor) -> dict[str, Tensor]:
        self.given.append((rollout, instance_reward))
        return {}


@pytest.mark.parametrize("equal_steps", [False, True])
@pytest.mark.parametrize("group_size", [4, 1])
def test_each_temperature_is_paid_its_gain_over_the_groups_mean(
    group_size: int, equal_steps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = looking(group_size=group_size, equal_steps=equal_steps)
    spy, asked = Spy(agent, monkeypatch), []

    def gain_of(seen: Any, temperature: Tensor) -> Gains:
        asked.append(temperature)
        return Gains(temperature * seen.student[:, 0], temperature + 1)

    step(agent, 0, gain_of)
    ((rollout, reward),) = spy.given
    gain = torch.stack([each * logits_of(0).student[:, 0] for each in asked])
    size = torch.stack([each + 1 for each in asked])
    if equal_steps:
        gain = gain / size * size.mean(dim=0)
    expected = gain - gain.mean(dim=0) if group_size > 1 else gain
    torch.testing.assert_close(reward, expected)
    torch.testing.assert_close(rollout.raw_reward, gain.sum(dim=1))
    assert rollout.mask.eq(1).all()
    temperature = agent.learner.policy(rollout.state[0]).temperature(rollout.raw_action)
    torch.testing.assert_close(temperature, torch.stack(asked))
    assert asked[0].unique().numel() == 8


def test_a_group_covers_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = looking(group_size=16)
    spy = Spy(agent, monkeypatch)
    for batch in range(20):
        step(agent, batch, lambda _, temperature: Gains(temperature, temperature), rows=64)
    action = torch.stack([rollout.raw_action for rollout, _ in spy.given])  # (look, group, row)
    policy = agent.learner.policy(spy.given[0][0].state[0])
    mean, std = policy.mean[0], policy.std[0]
    torch.testing.assert_close(action.mean(), mean, rtol=0, atol=5e-3)
    torch.testing.assert_close(action.std(), std, rtol=0.01, atol=0)
    assert (action.sort(dim=1).values == action).all()
    # A group's mean varies by much less than that of 16 independent draws.
    assert action.mean(dim=1).std() < 0.3 * std / 4


def test_rows_without_a_gain_pay_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = looking(group_size=4)
    spy = Spy(agent, monkeypatch)
    seen = logits_of(0)
    seen.student[2] = torch.nan

    def gain_of(temperatures_of: Any) -> Gains:
        gain = temperatures_of(seen.student).student.clone()
        gain[2], gain[5] = torch.nan, torch.inf
        return Gains(gain, torch.ones_like(gain))

    agent.look_ahead(gain_of)
    learn_from = torch.arange(8) != 7
    with values_unchecked():
        given = agent(seen.student, seen.teacher, seen.target, learn_from=learn_from).student
    ((rollout, reward),) = spy.given
    left = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 0])
    assert torch.equal(rollout.mask, left.expand(4, -1))
    assert reward.isfinite().all()
    assert (reward[:, left == 0] == 0).all()
    assert given.isfinite().all()


def test_it_asks_once_an_interval_and_in_training_alone() -> None:
    agent = make_agent(reward_source="look_ahead", probe_interval=3, warmup_epochs=1)
    agent.start_epoch(1)
    assert not agent.look_ahead_due
    agent.start_epoch(2)
    due: list[bool] = []
    for batch in range(7):
        due.append(agent.look_ahead_due)
        assert not agent.observation_due
        step(agent, batch, best_at)
    assert due == [True, False, False, True, False, False, True]
    assert agent.updates == 3
    agent.eval()
    assert not agent.look_ahead_due
    passes = make_agent(reward_source="look_ahead", probe_interval=2)
    passes.share_update(2)
    asked: list[bool] = []
    for batch in range(8):
        asked.append(passes.look_ahead_due)
        step(passes, batch, best_at)
    assert asked == [batch % 4 == 0 for batch in range(8)]


def test_each_look_ahead_is_followed_by_another_field_of_noise() -> None:
    agent = make_agent(reward_source="look_ahead", probe_interval=3)
    fields: list[Tensor] = []
    for batch in range(9):
        step(agent, batch, best_at)
        field = agent._window.noise_field
        assert field is not None
        fields.append(field)
    assert len({tuple(each.tolist()) for each in fields}) == 3


def test_it_learns_from_as_many_instances_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = looking(max_instances=2)
    spy = Spy(agent, monkeypatch)
    step(agent, 0, best_at)
    ((rollout, reward),) = spy.given
    assert rollout.mask.shape == reward.shape == (8, 2)


def test_a_loop_that_does_not_answer_is_reminded_once() -> None:
    agent = looking()
    seen = logits_of(0)
    with pytest.warns(Notice, match="call look_ahead.* whenever look_ahead_due"):
        agent(seen.student, seen.teacher, seen.target)
    agent(seen.student, seen.teacher, seen.target)  # a second warning would be an error
    assert agent.updates == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"held_out": "f1"}, "held_out=f1: choose one of"),
        ({"group_size": 0}, "group_size"),
        ({"group_size": 5000}, "group_size"),
        ({"equal_steps": "yes"}, "equal_steps"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        looking(**option)
