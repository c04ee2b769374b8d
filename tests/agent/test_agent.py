import inspect
from typing import Any

import pytest
import torch
from tests.agent.loop import drive, logits_of, make_agent, spy_on_learning
from torch import Tensor

from rlkd.agent import TemperatureAgent, instance_state
from rlkd.errors import UserError
from rlkd.types import Temperatures

SOURCES = ["next_batch", "same_batch", "probe"]
CALIBRATIONS = ["additive", "recurrent", "none"]


def weights(agent: TemperatureAgent) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in agent.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def ask(agent: TemperatureAgent, batch: int = 0, *, rows: int = 8) -> Tensor:
    seen = logits_of(batch, rows=rows)
    return agent(seen.student, seen.teacher, seen.target).student


def test_both_networks_get_the_same_temperatures_within_bounds() -> None:
    seen = logits_of(0, rows=500)
    given = make_agent(initial_std=2.5)(seen.student, seen.teacher, seen.target)
    assert isinstance(given, Temperatures)
    assert given.student is given.teacher
    assert given.student.shape == (500,)
    assert given.student.min() >= 0.05
    assert given.student.max() < 10


def test_temperatures_take_no_part_in_the_gradient() -> None:
    seen = logits_of(0)
    given = make_agent()(seen.student.requires_grad_(), seen.teacher, seen.target)
    assert not given.student.requires_grad


def test_warm_up_gives_the_base_temperature_and_collects_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make_agent(warmup_epochs=2, base_temperature=3.0)
    rollouts, before = spy_on_learning(agent, monkeypatch), weights(agent)
    for epoch in (1, 2):
        agent.start_epoch(epoch)
        for given in drive(agent, range(10)):
            assert (given == 3).all()
    assert rollouts == []
    assert agent.updates == 0
    assert same(before, weights(agent))
    agent.start_epoch(3)
    assert ask(agent).std() > 0.1
    drive(agent, range(1, 3))
    # nothing of the warm-up: the first trajectory is the first batch of epoch 3
    seen = logits_of(0)
    expected = instance_state(seen.student, seen.teacher)
    assert torch.equal(rollouts[0].state[0], expected)


@pytest.mark.parametrize("source", SOURCES)
def test_in_warm_up_no_measurement_is_asked_for(source: str) -> None:
    agent = make_agent(reward_source=source, warmup_epochs=1)
    ask(agent)
    assert not agent.observation_due


def test_in_evaluation_temperatures_are_greedy_and_nothing_is_learnt() -> None:
    agent = make_agent()
    drive(agent, range(9))
    agent.eval()
    before, updates = weights(agent), agent.updates
    first = ask(agent, 50)
    drive(agent, range(51, 60))
    assert torch.equal(ask(agent, 50), first)
    assert same(before, weights(agent))
    assert agent.updates == updates
    seen = logits_of(50)
    policy = agent.learner.policy(instance_state(seen.student, seen.teacher))
    torch.testing.assert_close(first, 10 * torch.sigmoid(policy.mean))


@pytest.mark.parametrize("source", SOURCES)
def test_an_evaluation_in_between_changes_nothing_of_the_training(source: str) -> None:
    one, other = (make_agent(reward_source=source, probe_interval=2) for _ in range(2))
    drive(one, range(5))
    drive(other, range(5))
    other.eval()
    drive(other, range(100, 105))
    other.train()
    for mine, theirs in zip(drive(one, range(5, 9)), drive(other, range(5, 9)), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("source", SOURCES)
def test_a_measurement_in_evaluation_teaches_nothing(source: str) -> None:
    agent = make_agent(reward_source=source, update_interval=1, probe_interval=1)
    drive(agent, range(3))
    ask(agent, 3)
    before, updates = weights(agent), agent.updates
    agent.eval()
    agent.observe(torch.tensor(0.9))
    assert agent.updates == updates
    assert same(before, weights(agent))


def test_before_anything_is_learnt_the_greedy_temperature_is_the_base() -> None:
    agent = make_agent(base_temperature=2.5).eval()
    torch.testing.assert_close(ask(agent, rows=50), torch.full((50,), 2.5))


@pytest.mark.parametrize("interval", [1, 3])
def test_the_agent_learns_every_so_many_closed_trajectories(
    interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(update_interval=interval)
    rollouts = spy_on_learning(agent, monkeypatch)
    updates: list[int] = []
    for batch in range(10):
        ask(agent, batch)
        updates.append(agent.updates)
    # batch b closes the trajectory of batch b - 1
    assert updates == [batch // interval for batch in range(10)]
    assert all(len(rollout.reward) == interval for rollout in rollouts)


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_the_agent_acts_for_all_rows_in_one_call(rows: int) -> None:
    agent = make_agent(update_interval=100)
    seen: list[torch.Size] = []
    agent.learner.actor.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    for batch in range(5):
        ask(agent, batch, rows=rows)
    assert seen == [torch.Size((rows, 1, 3))] * 5


def test_the_same_seed_gives_the_same_temperatures() -> None:
    first, second, third = (drive(make_agent(seed=seed), range(6)) for seed in (7, 7, 8))
    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first, third))


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_torchs_own_random_numbers_are_left_alone(calibration: str) -> None:
    before = torch.random.get_rng_state()
    drive(make_agent(calibration=calibration, seed=3), range(5))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_torchs_own_random_numbers_leave_the_agent_alone() -> None:
    torch.manual_seed(1)
    first = drive(make_agent(), range(8))
    torch.manual_seed(2)
    second = drive(make_agent(), range(8))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize(
    ("source", "calibration"),
    [("next_batch", "additive"), ("same_batch", "recurrent"), ("probe", "none")],
)
def test_autocast_around_the_agent_changes_nothing(source: str, calibration: str) -> None:
    options: dict[str, Any] = {"reward_source": source, "calibration": calibration}
    options |= {"evidence": False, "probe_interval": 1, "update_interval": 1}
    plain, cast, idle = (make_agent(**options) for _ in range(3))
    expected = drive(plain, range(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = drive(cast, range(5))
    assert all(map(torch.equal, expected, found))
    assert same(weights(plain), weights(cast))
    moved = [name for name, each in weights(plain).items() if not each.equal(weights(idle)[name])]
    assert any(name.startswith("learner.actor") for name in moved)


def test_half_precision_logits_are_taken() -> None:
    agent = make_agent()
    for batch in range(6):
        seen = logits_of(batch)
        given = agent(seen.student.bfloat16(), seen.teacher.bfloat16(), seen.target)
        assert given.student.dtype is torch.float32


def test_the_loop_may_run_without_gradients() -> None:
    agent, trained = make_agent(), make_agent()
    with torch.no_grad():
        drive(agent, range(8))
    drive(trained, range(8))
    assert same(weights(agent), weights(trained))


def test_learning_changes_actor_critic_and_updater() -> None:
    agent = make_agent(evidence=False)  # which lets the actor move from the second update on
    before = weights(agent)
    drive(agent, range(9))
    after = weights(agent)
    for part in ("actor", "critic", "updater"):
        names = [name for name in before if f".{part}." in name]
        assert names
        assert any(not torch.equal(before[name], after[name]) for name in names)


ALWAYS = {
    *("reward", "reward_std", "reward_gated", "reward_even_std"),
    *("reward_calibrated_std", "reward_calibrated_sum", "reward_calibrated_sum_error"),
    *("explained_variance", "approx_kl", "clip_fraction", "entropy", "first_ratio_error"),
    *("actor_loss", "critic_loss", "temperature_mean", "temperature_std"),
    *("temperature_p05", "temperature_p25", "temperature_p50"),
    *("temperature_p75", "temperature_p95"),
}


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("state_updater", [True, False])
def test_every_figure_is_reported(calibration: str, state_updater: bool) -> None:
    agent = make_agent(calibration=calibration, state_updater=state_updater)
    assert agent.diagnostics() == {}
    drive(agent, range(5))
    figures = agent.diagnostics()
    expected = ALWAYS | ({"updater_loss"} if state_updater else set())
    expected |= set() if calibration == "none" else {"corrector_loss"}
    assert figures.keys() >= expected
    for figure in figures.values():
        assert figure.shape == ()
        assert torch.isfinite(figure)
        assert not figure.requires_grad
    assert figures["first_ratio_error"] <= 1e-6
    assert figures["reward_calibrated_sum_error"] <= 1e-5


def test_the_temperature_figures_are_those_of_the_last_batch() -> None:
    agent = make_agent()
    given = ask(agent, rows=101)
    figures = agent.diagnostics()
    ordered = given.sort().values
    torch.testing.assert_close(figures["temperature_mean"], given.mean())
    torch.testing.assert_close(figures["temperature_std"], given.std(correction=0))
    for level in (5, 25, 50, 75, 95):  # of 101 values the 5 % quantile is the fifth from 0
        torch.testing.assert_close(figures[f"temperature_p{level:02d}"], ordered[level])


def test_every_option_is_a_keyword() -> None:
    options = list(inspect.signature(TemperatureAgent.__init__).parameters.values())[1:]
    allowed = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    assert all(option.kind in allowed for option in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_interval": 0}, "update_interval=0: give a whole number of at least 1"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1: give a whole number of at least 0"),
        ({"base_temperature": 12.0}, "base_temperature=12.0: give a number from 0.05 to below 10"),
        ({"max_temperature": -2.0}, "max_temperature=-2.0: give a number above 0"),
        ({"reward_source": "luck"}, "reward source=luck: choose one of"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_agent(**options)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^TemperatureAgent\(\) .* 'clipping'; did you mean clip\b"
    ):
        make_agent(clipping=0.2)
    with pytest.raises(TypeError, match=r"'temperature'; did you mean .*\bbase_temperature\b"):
        make_agent(temperature=2.0)
    with pytest.raises(TypeError, match=r"argument 'qqqqqq'$"):
        make_agent(qqqqqq=1)


def test_epochs_and_passes_count_from_one() -> None:
    agent = make_agent()
    for wrong in (0, -1):
        with pytest.raises(UserError, match=f"epoch={wrong}: give a whole number of at least 1"):
            agent.start_epoch(wrong)
    with pytest.raises(UserError, match="passes=0: give a whole number of at least 1"):
        agent.share_update(0)
