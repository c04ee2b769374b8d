"""A trajectory of at most so many instances of a batch."""

from typing import Any

import pytest
import torch
from tests.agent.loop import logits_of, make_agent, spy_on_learning
from torch import Tensor

from rlkd.agent import TemperatureAgent, instance_state
from rlkd.errors import UserError
from rlkd.types import IGNORED


def ask(agent: TemperatureAgent, batch: int, rows: int, learn_from: Tensor | None = None) -> Tensor:
    seen = logits_of(batch, rows=rows)
    return agent(seen.student, seen.teacher, seen.target, learn_from=learn_from).student


def state_of(batch: int, rows: int) -> Tensor:
    seen = logits_of(batch, rows=rows)
    return instance_state(seen.student, seen.teacher)


@pytest.mark.parametrize(
    ("rows", "most", "kept"),
    [
        (8, None, range(8)),
        (8, 8, range(8)),
        (8, 100, range(8)),
        (9, 8, range(0, 9, 2)),  # every second is the finest even step that stays within 8
        (20, 6, range(0, 20, 4)),
        (16, 4, range(0, 16, 4)),
        (512, 64, range(0, 512, 8)),
        (7, 1, range(0, 7, 7)),
        (1, 5, range(1)),
    ],
)
def test_the_sample_is_even_and_within_its_bound(
    rows: int, most: int | None, kept: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(max_instances=most, update_interval=1)
    rollouts = spy_on_learning(agent, monkeypatch)
    given = ask(agent, 0, rows)
    ask(agent, 1, rows)
    (rollout,) = rollouts
    assert len(kept) <= (most or rows)
    assert torch.equal(rollout.state[0], state_of(0, rows)[list(kept)])
    assert rollout.mask[0].tolist() == [1.0] * len(kept)
    torch.testing.assert_close(10 * torch.sigmoid(rollout.raw_action[0]), given[list(kept)])


def test_every_row_gets_the_temperature_that_it_would_get_without_a_bound() -> None:
    bounded, free = make_agent(max_instances=3), make_agent()
    assert torch.equal(ask(bounded, 0, 50), ask(free, 0, 50))
    bounded.eval()
    free.eval()
    assert torch.equal(ask(bounded, 1, 50), ask(free, 1, 50))


def test_rows_that_are_not_learnt_from_are_masked_within_the_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make_agent(max_instances=4, update_interval=1)
    rollouts = spy_on_learning(agent, monkeypatch)
    chosen = torch.arange(12) < 5  # of the rows 0, 3, 6 and 9 the first two
    ask(agent, 0, 12, chosen)
    ask(agent, 1, 12)
    (rollout,) = rollouts
    assert rollout.mask[0].tolist() == [1, 1, 0, 0]
    assert torch.equal(rollout.state[0, :2], state_of(0, 12)[[0, 3]])


def test_each_batch_of_a_probes_window_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"reward_source": "probe", "probe_interval": 3}
    agent = make_agent(max_instances=4, update_interval=1, **options)
    rollouts = spy_on_learning(agent, monkeypatch)
    for batch, rows in enumerate((8, 10, 16, 4)):
        ask(agent, batch, rows)
        if agent.observation_due:
            agent.observe(torch.tensor(0.1 * batch))
    (rollout,) = rollouts
    # the second batch of the window begins at its second row
    expected = [state_of(1, 10)[::3], state_of(2, 16)[1::4], state_of(3, 4)]
    assert torch.equal(rollout.state[0], torch.cat(expected))


def test_the_performance_counts_every_instance_of_the_batch() -> None:
    agent = make_agent(max_instances=2, update_interval=1, gate=False)
    accuracies = []
    for batch in (0, 4):
        seen = logits_of(batch, rows=30)
        agent(seen.student, seen.teacher, seen.target)
        accuracies.append((seen.student.argmax(dim=1) == seen.target).float().mean().item())
    paid = agent.diagnostics()["reward"].item()
    assert paid == pytest.approx(accuracies[1] - accuracies[0])
    assert paid != 0


def test_instances_that_are_not_scored_act_and_are_not_paid_for() -> None:
    agent = make_agent(update_interval=1, gate=False)
    accuracies = []
    for batch in (0, 4):
        seen = logits_of(batch, rows=30)
        target = seen.target.clone()
        target[::3] = IGNORED
        given = agent(seen.student, seen.teacher, target).student
        assert given.shape == (30,)
        assert len(given.unique()) == 30
        scored = [row for row in range(30) if row % 3]
        right = [int(seen.student[row].argmax()) == int(target[row]) for row in scored]
        accuracies.append(sum(right) / 20)
    paid = agent.diagnostics()["reward"].item()
    assert paid == pytest.approx(accuracies[1] - accuracies[0])
    assert paid != 0


@pytest.mark.parametrize("most", [0, -3])
def test_an_impossible_bound_is_refused(most: int) -> None:
    with pytest.raises(UserError, match=f"max_instances={most}: give a whole number of"):
        make_agent(max_instances=most)
