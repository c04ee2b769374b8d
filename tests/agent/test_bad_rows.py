"""What is not finite never reaches the agent: rows, rewards, updates."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.agent.loop import CLASSES, Logits, logits_of, make_agent
from tests.marks import but_long
from torch import Tensor

from rlkd.agent import TemperatureAgent
from rlkd.agent.calibration import reach_of
from rlkd.agent.reward import WORST_LOSS, Reward
from rlkd.agent.rollout import Rollout
from rlkd.checks import values_unchecked
from rlkd.errors import InputError, Notice
from rlkd.types import IGNORED

BATCHES = 16
VARIANTS: list[dict[str, Any]] = [
    {"reward_source": "next_batch", "metric": "accuracy", "calibration": "additive"},
    {"reward_source": "same_batch", "metric": "loss", "calibration": "additive"},
    {"reward_source": "probe", "metric": "accuracy", "calibration": "recurrent"},
    {"reward_source": "next_batch", "metric": "loss", "calibration": "recurrent"},
    {"reward_source": "probe", "metric": "loss", "calibration": "none"},
    {"state_updater": False},
    {"max_instances": 3},
    {"discount": 0.9, "entropy_bonus": 0.01},
]
"""Every choice at least twice; benchmarks/bad_rows.py has all of them together."""
HALF = [(torch.float16, VARIANTS[0]), (torch.bfloat16, VARIANTS[3])]
FULL = [(torch.float32, each) for each in VARIANTS]
CASES = [
    *FULL[:4:3],
    HALF[0],
    *(pytest.param(*each, marks=pytest.mark.long) for each in (*FULL[1:3], *FULL[4:], *HALF[1:])),
]
AS_IN_A_RUN = pytest.mark.usefixtures("as_in_a_run")


@pytest.fixture
def as_in_a_run() -> Any:
    """Read no value, as in a run's own steps and on a GPU."""
    with values_unchecked():
        yield


def variant(given: Any) -> str:
    return "-".join(map(str, given.values())) if isinstance(given, dict) else str(given)


def bad_rows(batch: int, rows: int) -> Tensor:
    """Two rows of every third batch."""
    bad = torch.zeros(rows, dtype=torch.bool)
    if batch % 3 == 0:
        bad[[batch % rows, (batch + 3) % rows]] = True
    return bad


def spoilt(seen: Logits, bad: Tensor, batch: int) -> Logits:
    """NaN or +inf for either network in turn."""
    value = math.nan if batch % 2 else math.inf
    networks = [seen.student.clone(), seen.teacher.clone()]
    networks[batch // 3 % 2][bad, batch % CLASSES] = value
    return Logits(*networks, seen.target)


def train(
    agent: TemperatureAgent, *, spoil: bool, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Drive an agent with bad rows; or with good ones that it is not shown in their place."""
    given: list[Tensor] = []
    for batch in range(BATCHES):
        seen = logits_of(batch)
        bad = bad_rows(batch, len(seen.target))
        if spoil:
            seen = spoilt(seen, bad, batch)
            target, learn_from = seen.target, None
        else:
            target, learn_from = seen.target.masked_fill(bad, IGNORED), ~bad
        chosen = agent(
            seen.student.to(dtype), seen.teacher.to(dtype), target, learn_from=learn_from
        )
        given.append(chosen.student.clone())
        if agent.observation_due:
            after = logits_of(1000 + batch)
            agent.observe(agent.performance(after.student.to(dtype), after.target))
    return given


def finite(agent: TemperatureAgent) -> bool:
    """Whether all that the agent holds is finite."""

    def sound(held: Any) -> bool:
        if isinstance(held, Tensor):
            return bool(held.isfinite().all())
        if isinstance(held, dict):
            return all(map(sound, held.values()))
        return all(map(sound, held)) if isinstance(held, list | tuple) else True

    return sound(agent.state_dict())


@AS_IN_A_RUN
def test_defect_one_bad_row_made_every_later_temperature_nan() -> None:
    agent = TemperatureAgent(reward_source="next_batch")
    generator = torch.Generator().manual_seed(0)
    for batch in range(40):
        student, teacher = torch.randn(2, 16, 10, generator=generator).unbind()
        target = torch.randint(10, (16,), generator=generator)
        if batch == 3:
            teacher[0, 0] = math.inf
        assert agent(student, teacher, target).student.isfinite().all(), batch
    assert agent.eval()(student, teacher, target).student.isfinite().all()
    assert agent.updates == 4
    assert agent.diagnostics()["bad_rows"] == 1


@AS_IN_A_RUN
@pytest.mark.parametrize(("dtype", "options"), CASES, ids=variant)
def test_what_is_learnt_beside_bad_rows_is_what_is_learnt_without_them(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    one, other = (make_agent(**({"probe_interval": 2} | options)) for _ in range(2))
    found = train(one, spoil=True, dtype=dtype)
    expected = train(other, spoil=False, dtype=dtype)
    assert one.updates == other.updates > 1
    for batch, (each, wanted) in enumerate(zip(found, expected, strict=True)):
        bad = bad_rows(batch, len(each))
        assert torch.equal(each[~bad], wanted[~bad])
        assert (each[bad] == one.base_temperature).all()
    for (name, weight), learnt in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, learnt), name
    assert finite(one)
    expected_count = sum(int(bad_rows(batch, 8).sum()) for batch in range(BATCHES))
    assert one.diagnostics()["bad_rows"] == expected_count


@AS_IN_A_RUN
@pytest.mark.parametrize(("dtype", "options"), CASES, ids=variant)
def test_the_agent_stays_finite_whatever_it_is_given(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    agent = make_agent(**({"probe_interval": 2} | options))
    generator = torch.Generator().manual_seed(1)
    absurd = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30, 3e38, 1e-40, 0.0])
    for batch in range(16):
        seen = logits_of(batch)
        networks = [seen.student, seen.teacher]
        for each in networks:
            hit = torch.rand(each.shape, generator=generator) < (0.5 if batch % 4 == 0 else 0.02)
            drawn = absurd[torch.randint(len(absurd), each.shape, generator=generator)]
            each.copy_(torch.where(hit, drawn, each))
        chosen = agent(*(each.to(dtype) for each in networks), seen.target)
        assert chosen.student.isfinite().all()
        if agent.observation_due:
            told = absurd[batch % len(absurd)] if batch % 2 else torch.tensor(0.1 * batch)
            agent.observe(told)
    assert agent.updates > 1
    assert finite(agent)


@AS_IN_A_RUN
@pytest.mark.parametrize("absurd", but_long([3, 14, 25], 14))
@pytest.mark.parametrize("calibration", ["additive", "recurrent"])
def test_one_absurd_loss_does_not_stop_the_actor(calibration: str, absurd: int) -> None:
    options: dict[str, Any] = {"metric": "loss", "calibration": calibration, "update_interval": 8}

    def spread(at: int) -> float:
        agent = make_agent(**options)
        for batch in range(33):
            seen = logits_of(batch)
            agent(seen.student * (1e30 if batch == at else 1.0), seen.teacher, seen.target)
        assert agent.learner.corrector is not None
        assert finite(agent)
        return float(agent.learner.corrector.spread)

    # Not 100 nats over the square root of 32, which is 25 times as much or more.
    assert spread(at=-1) < spread(at=absurd) < 6 * spread(at=-1)


def test_rewards_out_of_all_proportion_count_as_ten_interquartile_ranges() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 1e6, -1e6])
    present = torch.tensor([True] * 5 + [False] * 2)
    assert reach_of(rewards, present) == (3.0 - 10 * 2, 3.0 + 10 * 2)
    assert reach_of(rewards[5:], present[5:]) == (-math.inf, math.inf)
    same = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5])
    assert reach_of(same, torch.ones(5).bool()) == (-math.inf, math.inf)


def test_a_loss_beyond_the_worst_counts_as_the_worst() -> None:
    reward = Reward(metric="loss")
    student = torch.tensor([[1e30, 0.0], [0.0, 0.0]])
    tally = reward.tally(student, torch.tensor([1, 1]))
    torch.testing.assert_close(tally, torch.tensor([-WORST_LOSS - math.log(2), 2.0]))
    masked = torch.tensor([[0.0, -math.inf]])  # the target is of probability 0
    assert reward.tally(masked, torch.tensor([1])).tolist() == [-WORST_LOSS, 1.0]


@AS_IN_A_RUN
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_rows_that_cannot_be_scored_do_not_count(metric: Any) -> None:
    student = torch.tensor([[2.0, 0.0], [math.nan, 0.0], [0.0, math.inf], [0.0, 2.0]])
    target = torch.tensor([0, 0, 1, IGNORED])
    reward = Reward(metric=metric)
    assert torch.equal(reward.tally(student, target), reward.tally(student[:1], target[:1]))
    assert reward.performance(student[1:], target[1:]).isnan()


@pytest.mark.parametrize("options", VARIANTS, ids=variant)
def test_an_update_paid_by_nothing_finite_changes_nothing(options: dict[str, Any]) -> None:
    agent = make_agent(**options)
    generator = torch.Generator().manual_seed(0)

    def rollout(reward: float) -> Rollout:
        paid = math.isfinite(reward)
        return Rollout(
            state=torch.rand(2, 8, 3, generator=generator),
            raw_action=torch.randn(2, 8, generator=generator),
            mask=torch.full((2, 8), float(paid)),
            raw_reward=torch.tensor([reward, 0.1 * paid]),
            reward=torch.tensor([reward, 0.1 * paid]),
        )

    agent.learner.learn(rollout(0.5), generator)
    before = {name: each.clone() for name, each in agent.learner._lasting().items()}
    figures = agent.learner.learn(rollout(math.nan), generator)
    after = agent.learner._lasting()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert figures["rewards_left_out"] == 2
    assert all(each.isfinite() for each in figures.values())
    assert agent.learner.learn(rollout(0.4), generator)["rewards_left_out"] == 0
    assert any(
        not torch.equal(before[name], each) for name, each in agent.learner._lasting().items()
    )


@pytest.mark.parametrize("options", [VARIANTS[0], VARIANTS[2], VARIANTS[4]], ids=variant)
def test_an_update_that_ends_in_nan_changes_nothing(options: dict[str, Any]) -> None:
    agent = make_agent(**options)
    generator = torch.Generator().manual_seed(0)
    rollout = Rollout(
        state=torch.rand(2, 8, 3, generator=generator),
        raw_action=torch.randn(2, 8, generator=generator),
        mask=torch.ones(2, 8),
        raw_reward=torch.tensor([0.1, 0.2]),
        reward=torch.tensor([0.1, 0.2]),
    )
    agent.learner.ppo.entropy_bonus = math.inf
    before = {name: each.clone() for name, each in agent.learner._lasting().items()}
    figures = agent.learner.learn(rollout, generator)
    assert figures["update_left_out"] == 1
    assert all(each.isfinite() for each in figures.values())
    for name, each in agent.learner._lasting().items():
        # Adam has no moments before its first step: 0 stands for them.
        assert torch.equal(each, before.get(name, torch.zeros_like(each))), name
    agent.learner.ppo.entropy_bonus = 0.0
    assert agent.learner.learn(rollout, generator)["update_left_out"] == 0


def test_instances_that_are_not_finite_are_left_out_of_a_rollout() -> None:
    agent, other = make_agent(calibration="recurrent"), make_agent(calibration="recurrent")
    generator = torch.Generator().manual_seed(0)
    clean = Rollout(
        state=torch.rand(2, 8, 3, generator=generator),
        raw_action=torch.randn(2, 8, generator=generator),
        mask=torch.ones(2, 8),
        raw_reward=torch.tensor([0.1, 0.2]),
        reward=torch.tensor([0.1, 0.2]),
    )
    bad = replace(clean, raw_action=clean.raw_action.clone(), mask=clean.mask.clone())
    bad.raw_action[0, 7], clean.raw_action[0, 7], clean.mask[0, 7] = math.nan, 0.0, 0.0
    for each, rollout in ((agent, bad), (other, clean)):
        figures = each.learner.learn(rollout, torch.Generator().manual_seed(0))
        assert figures["update_left_out"] == 0
    for one, wanted in zip(agent.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, wanted)


def test_a_measurement_that_is_not_finite_pays_nobody() -> None:
    agent = make_agent(reward_source="same_batch", update_interval=2)
    for batch, measured in enumerate([0.5, math.nan]):
        seen = logits_of(batch)
        agent(seen.student, seen.teacher, seen.target)
        agent.observe(torch.tensor(measured))
    assert agent.updates == 1
    assert agent.diagnostics()["rewards_left_out"] == 1
    assert finite(agent)


@pytest.mark.parametrize("source", ["same_batch", "next_batch", "probe"])
def test_a_measurement_that_is_not_finite_leaves_a_state_that_can_be_restored(source: Any) -> None:
    agent, again = (make_agent(reward_source=source, probe_interval=1) for _ in range(2))
    for batch, measured in enumerate([0.5, 0.4, math.nan]):
        seen = logits_of(batch)
        target = seen.target if math.isfinite(measured) else torch.full_like(seen.target, IGNORED)
        agent(seen.student, seen.teacher, target)
        if agent.observation_due:
            agent.observe(torch.tensor(measured))
    assert finite(agent)
    again.load_state_dict(copy.deepcopy(agent.state_dict()))
    for batch in range(3, 9):
        seen = logits_of(batch)
        one, other = (each(seen.student, seen.teacher, seen.target) for each in (agent, again))
        assert torch.equal(one.student, other.student)
        for each in (agent, again):
            if each.observation_due:
                each.observe(torch.tensor(0.1 * batch))
    assert agent.updates > 1
    assert finite(agent)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [0.5, None, torch.zeros(2)])
def test_a_measurement_is_one_number(given: Any) -> None:
    with pytest.raises(InputError, match="observe takes what `performance` returns, a tensor"):
        make_agent(reward_source="same_batch").observe(given)


def drive_without_measuring(agent: TemperatureAgent, *, batches: int) -> list[Tensor]:
    each = map(logits_of, range(batches))
    return [agent(seen.student, seen.teacher, seen.target).student for seen in each]


@pytest.mark.parametrize("source", ["same_batch", "probe"])
def test_a_loop_that_never_measures_does_not_grow_the_window(source: Any) -> None:
    agent = make_agent(reward_source=source, probe_interval=3)
    with pytest.warns(Notice, match=rf"waits for a measurement.*{source}, call observe") as said:
        given = drive_without_measuring(agent, batches=20)
    assert len(said) == 1
    assert all(each.isfinite().all() for each in given)
    assert agent.state_dict()["_extra_state"]["batches"] == (1 if source == "same_batch" else 3)
    agent.observe(torch.tensor(0.5))
    assert not agent.observation_due


def test_the_agent_stays_in_float32_within_a_network_of_half_precision() -> None:
    agent = make_agent()
    for batch in range(9):
        seen = logits_of(batch)
        agent(seen.student, seen.teacher, seen.target)
    before = copy.deepcopy(agent.learner._lasting())
    whole = torch.nn.ModuleList([agent]).half()
    assert all(torch.equal(each, before[name]) for name, each in agent.learner._lasting().items())
    train(agent, spoil=False, dtype=torch.float16)
    whole.bfloat16()
    train(agent, spoil=False, dtype=torch.bfloat16)
    assert {each.dtype for each in agent.parameters()} == {torch.float32}
    assert finite(agent)
    assert agent.updates > 5
