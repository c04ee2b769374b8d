"""The agent that is paid by a look-ahead: what it is paid, and what it learns."""

import warnings
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


def test_an_extended_state_tells_what_the_papers_does_not() -> None:
    """The best temperature hangs on whether both networks agree, which confidences do not say."""

    def by_agreement(seen: Any, temperature: Tensor) -> Gains:
        agree = seen.student.argmax(dim=1) == seen.teacher.argmax(dim=1)
        best = torch.where(agree, 2.0, 7.0)
        return Gains(-(temperature - best).square(), torch.ones_like(temperature))

    def error_of(state: Any) -> float:
        agent = looking(state=state, epochs=5, hidden=32)
        for batch in range(60):
            step(agent, batch, by_agreement, rows=64)
        seen = logits_of(10**6, rows=512)
        agent.eval()
        given = agent(seen.student, seen.teacher, seen.target).student
        return float(-by_agreement(seen, given).gain.mean())

    assert error_of(["agreement"]) < 0.2 * error_of("paper")


def test_two_actions_find_the_best_of_either_network() -> None:
    agent = looking(two_actions=True, epochs=5, minibatches=8, hidden=32)
    for batch in range(30):
        seen = logits_of(batch, rows=64)

        def gain_of(of: Any, seen: Any = seen) -> Gains:
            given = of(seen.student)
            apart = (given.student - 2).square() + (given.teacher - 6).square()
            return Gains(-apart, torch.ones_like(apart))

        agent.look_ahead(gain_of)
        given = agent(seen.student, seen.teacher, seen.target)
        assert given.student.shape == given.teacher.shape == (64,)
        torch.testing.assert_close(given.factor, given.student * given.teacher)
    figures = agent.diagnostics()
    agent.eval()
    seen = logits_of(10**6, rows=64)
    given = agent(seen.student, seen.teacher, seen.target)
    assert (given.student - 2).abs().mean() < 0.7
    assert (given.teacher - 6).abs().mean() < 0.7
    assert figures["teacher_temperature_mean"] > figures["temperature_mean"] + 2


def test_each_of_two_actions_is_paid_beside_the_mean_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = looking(two_actions=True, group_size=4, max_instances=4)
    spy, asked = Spy(agent, monkeypatch), []
    seen = logits_of(0)

    def gain_of(of: Any) -> Gains:
        given = of(seen.student)
        asked.append(given)
        return Gains(given.student * given.teacher, torch.ones_like(given.student))

    agent.look_ahead(gain_of)
    agent(seen.student, seen.teacher, seen.target)
    ((rollout, reward),) = spy.given
    assert len(asked) == 8  # the student's draw and the teacher's, of each of a group
    base = torch.full((8,), agent.base_temperature)
    for drawn, other in ((asked[::2], "teacher"), (asked[1::2], "student")):
        for each in drawn:
            torch.testing.assert_close(getattr(each, other), base)
    gain = torch.stack([each.student * each.teacher for each in asked]).unflatten(0, (4, 2))
    expected = (gain - gain.mean(dim=0)).transpose(1, 2)[:, ::2]
    torch.testing.assert_close(reward.unflatten(1, (4, 2)), expected)
    assert rollout.state.shape == (4, 8, 4)
    assert rollout.state[0, :, 3].tolist() == [0.0, 1.0] * 4
    temperature = agent.learner.policy(rollout.state[0]).temperature(rollout.raw_action)
    torch.testing.assert_close(
        temperature[:, ::2], torch.stack([t.student for t in asked[::2]])[:, ::2]
    )
    torch.testing.assert_close(
        temperature[:, 1::2], torch.stack([t.teacher for t in asked[1::2]])[:, ::2]
    )


def test_two_actions_need_a_look_ahead() -> None:
    with pytest.raises(UserError, match="two_actions=true is for reward_source=look_ahead"):
        make_agent(two_actions=True)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_figures_say_whether_hotter_gained(sign: float) -> None:
    agent = looking(group_size=4)
    step(agent, 0, lambda _, temperature: Gains(sign * temperature, torch.ones_like(temperature)))
    torch.testing.assert_close(
        agent.diagnostics()["hotter_gained"], torch.tensor(float(sign > 0)), atol=1e-4, rtol=0
    )


def test_the_context_is_of_the_epoch_the_rate_and_the_last_look() -> None:
    agent = looking(state=["epoch", "learning_rate", "hotter_gained"], gate_epochs=3.0)
    states: list[Tensor] = []
    agent.learner.actor.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    agent.learner.updater = None
    agent.start_epoch(1)
    agent.start_step(1e-3)
    step(agent, 0, lambda _, temperature: Gains(temperature, torch.ones_like(temperature)))
    torch.testing.assert_close(states[0][0, 0, 3:], torch.tensor([0.25, 5 / 9, 0.5]))
    agent.start_epoch(3)
    agent.start_step(10.0)
    states.clear()
    step(agent, 1, lambda _, temperature: Gains(temperature, torch.ones_like(temperature)))
    torch.testing.assert_close(states[0][0, 0, 3:], torch.tensor([0.5, 1.0, 1.0]))


def test_a_look_ahead_that_has_nothing_to_look_at_is_left_out() -> None:
    agent = looking()
    seen = logits_of(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.look_ahead(None)
        agent(seen.student, seen.teacher, seen.target)
    assert agent.updates == 0
    step(agent, 1, best_at)
    assert agent.updates == 1


def test_a_shuffled_agent_deals_its_own_temperatures_out() -> None:
    """The same distribution in each batch, and the same learning from the first look-ahead."""
    given = dict[bool, Tensor]()
    for shuffled in (False, True):
        agent = looking(shuffled=shuffled)
        given[shuffled] = step(agent, 3, best_at, rows=64)
        assert agent.updates == 1
    plain, dealt = given[False], given[True]
    assert torch.equal(plain.sort().values, dealt.sort().values)
    assert not torch.equal(plain, dealt)
    with pytest.raises(UserError, match="shuffled=true is for reward_source=look_ahead"):
        make_agent(shuffled=True)
