"""Which measurement pays which action."""

import math

import pytest
import torch
from tests.agent.loop import drive, logits_of, make_agent, scored, spy_on_learning

from rlkd.agent import TemperatureAgent, instance_state


def step(agent: TemperatureAgent, correct: int) -> None:
    seen = scored(correct)
    agent(seen.student, seen.teacher, seen.target)


def measure(agent: TemperatureAgent, correct: int) -> None:
    seen = scored(correct)
    agent.observe(agent.performance(seen.student, seen.target))


def last_reward(agent: TemperatureAgent) -> float:
    return agent.diagnostics()["reward"].item()


def test_next_batch_pays_each_batch_from_its_own_accuracy_to_the_nexts() -> None:
    agent = make_agent(update_interval=1)
    found: list[float] = []
    for correct in (2, 6, 5, 8):
        step(agent, correct)
        assert not agent.observation_due
        if agent.updates:
            found.append(last_reward(agent))
    assert found == [4 / 8, -1 / 8, 3 / 8]


def test_same_batch_pays_each_batch_from_before_its_update_to_after() -> None:
    agent = make_agent(update_interval=1, reward_source="same_batch")
    found: list[float] = []
    for before, after in ((2, 3), (7, 4), (0, 8)):
        step(agent, before)
        assert agent.observation_due
        measure(agent, after)
        assert not agent.observation_due
        found.append(last_reward(agent))
    assert found == [1 / 8, -3 / 8, 8 / 8]
    assert agent.updates == 3


def test_a_probe_pays_all_updates_between_two_probes_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make_agent(update_interval=1, reward_source="probe", probe_interval=3)
    rollouts = spy_on_learning(agent, monkeypatch)
    due: list[bool] = []
    probes = iter((1, 4, 2))
    for _ in range(7):
        step(agent, 5)
        due.append(agent.observation_due)
        if agent.observation_due:
            measure(agent, next(probes))
    # The first probe follows the first update: nothing was measured before it.
    assert due == [True, False, False, True, False, False, True]
    assert [rollout.raw_reward.tolist() for rollout in rollouts] == [[3 / 8], [-2 / 8]]
    assert all(rollout.mask.shape == (1, 24) for rollout in rollouts)


def test_a_probes_reward_does_not_depend_on_the_training_batches() -> None:
    rewards: list[float] = []
    for accuracies in ((0, 0, 0), (8, 1, 5)):
        agent = make_agent(update_interval=1, reward_source="probe", probe_interval=1)
        for correct, probe in zip(accuracies, (2, 3, 7), strict=True):
            step(agent, correct)
            measure(agent, probe)
        rewards.append(last_reward(agent))
    assert rewards == [4 / 8, 4 / 8]


@pytest.mark.parametrize("source", ["next_batch", "same_batch"])
def test_the_reward_goes_to_the_states_of_the_batch_it_belongs_to(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(reward_source=source, update_interval=2)
    rollouts = spy_on_learning(agent, monkeypatch)
    given = drive(agent, range(3))
    for batch in range(2):
        seen = logits_of(batch)
        state = instance_state(seen.student, seen.teacher)
        assert torch.equal(rollouts[0].state[batch], state)
        acted = 10 * torch.sigmoid(rollouts[0].raw_action[batch])
        torch.testing.assert_close(acted, given[batch])
        before = agent.performance(seen.student, seen.target)
        next_seen = logits_of(batch + 1 if source == "next_batch" else 1000 + batch)
        after = agent.performance(next_seen.student, next_seen.target)
        torch.testing.assert_close(rollouts[0].raw_reward[batch], after - before)


def test_a_reward_depends_on_exactly_one_before_and_one_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Change one of five accuracies at a time: only the rewards on either side of it move.
    def rewards(accuracies: list[int]) -> torch.Tensor:
        agent = make_agent(update_interval=4, calibration="none", epochs=1)
        rollouts = spy_on_learning(agent, monkeypatch)
        for correct in accuracies:
            step(agent, correct)
        return rollouts[0].raw_reward

    base = [3, 3, 3, 3, 3]
    unmoved = rewards(base)
    for changed in range(5):
        accuracies = list(base)
        accuracies[changed] = 7
        moved = (rewards(accuracies) - unmoved).tolist()
        expected = [0.0] * 4
        if changed > 0:
            expected[changed - 1] = 4 / 8
        if changed < 4:
            expected[changed] = -4 / 8
        assert moved == expected


def test_the_loss_metric_pays_the_fall_of_the_cross_entropy() -> None:
    agent = make_agent(update_interval=1, metric="loss")
    for confidence in (1.0, 3.0):
        seen = scored(8, confidence=confidence)
        agent(seen.student, seen.teacher, seen.target)

    def cross_entropy(confidence: float) -> float:
        return -confidence + math.log(math.exp(confidence) + 4)

    expected = cross_entropy(1.0) - cross_entropy(3.0)
    assert last_reward(agent) == pytest.approx(expected, rel=1e-5)


def test_mixed_targets_are_scored_by_their_likeliest_class() -> None:
    agent = make_agent(update_interval=1)
    for correct in (2, 6):
        seen = scored(correct)
        soft = 0.7 * torch.nn.functional.one_hot(seen.target, 5) + 0.3 * torch.eye(5)[1]
        agent(seen.student, seen.teacher, soft)
    assert last_reward(agent) == 0.5


@pytest.mark.parametrize(("gate", "expected"), [(True, 0.62245933), (False, 1.0)])
def test_the_gate_damps_the_reward_by_the_epoch(gate: bool, expected: float) -> None:
    # sigmoid(40 / 80) = 0.62245933
    agent = make_agent(update_interval=1, gate=gate, gate_epochs=80.0)
    agent.start_epoch(40)
    step(agent, 2)
    step(agent, 6)
    figures = agent.diagnostics()
    assert figures["reward"] == 0.5
    assert figures["reward_gated"].item() == pytest.approx(0.5 * expected, rel=1e-6)


@pytest.mark.parametrize("calibration", ["additive", "recurrent", "none"])
@pytest.mark.parametrize("updater", [True, False])
def test_rows_not_learnt_from_have_no_influence_on_the_weights(
    calibration: str, updater: bool
) -> None:
    chosen = torch.tensor([True, False, True, True, False, False, True, True])

    def learnt(noise: float) -> dict[str, torch.Tensor]:
        agent = make_agent(
            reward_source="probe",
            probe_interval=1,
            calibration=calibration,
            state_updater=updater,
            evidence=False,
        )
        before = agent.learner.actor.network[0].weight.clone()
        for batch in range(5):
            seen = logits_of(batch)
            student, teacher = seen.student.clone(), seen.teacher.clone()
            student[~chosen] += noise * torch.randn(3, 5)
            teacher[~chosen] *= 1 - noise
            agent(student, teacher, seen.target, learn_from=chosen)
            measure(agent, batch * 5 % 8)
        assert agent.updates == 2
        assert not torch.equal(agent.learner.actor.network[0].weight, before)
        return {name: each.detach() for name, each in agent.named_parameters()}

    plain, disturbed = learnt(0.0), learnt(0.9)
    assert all(torch.equal(plain[name], disturbed[name]) for name in plain)


def test_rows_learnt_from_do_have_influence() -> None:
    def learnt(chosen: torch.Tensor) -> torch.Tensor:
        agent = make_agent()
        drive(agent, range(6), learn_from=lambda _: chosen)
        return torch.cat([each.detach().flatten() for each in agent.parameters()])

    one, other = torch.ones(8).bool(), torch.ones(8).bool()
    other[0] = False
    assert not torch.equal(learnt(one), learnt(other))


def test_a_batch_with_nothing_to_learn_from_leaves_everything_finite() -> None:
    agent = make_agent()
    drive(agent, range(9), learn_from=lambda batch: torch.full((8,), batch > 3))
    assert agent.updates == 4
    assert all(torch.isfinite(each).all() for each in agent.parameters())
    assert all(torch.isfinite(each) for each in agent.diagnostics().values())
