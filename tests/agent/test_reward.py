import math

import pytest
import torch
from tests.agent.loop import scored
from torch.nn import functional as F

import rlkd
from rlkd.agent import Reward
from rlkd.errors import UserError
from rlkd.types import IGNORED


def test_accuracy_is_a_fraction() -> None:
    seen = scored(3, rows=8)
    assert Reward().performance(seen.student, seen.target) == 3 / 8


def test_the_loss_metric_is_minus_the_cross_entropy_by_hand() -> None:
    # softmax of (ln 3, 0) is (3/4, 1/4): -(-ln(3/4) - ln(1/4)) / 2
    logits = torch.tensor([[math.log(3), 0.0]] * 2)
    found = Reward(metric="loss").performance(logits, torch.tensor([0, 1]))
    expected = (math.log(0.75) + math.log(0.25)) / 2
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_both_metrics_take_mixed_targets() -> None:
    logits = torch.tensor([[math.log(3), 0.0]] * 2)
    target = torch.tensor([[0.7, 0.3], [0.3, 0.7]])
    assert Reward().performance(logits, target) == 0.5
    # both rows together: (0.7 + 0.3) ln(3/4) + (0.3 + 0.7) ln(1/4), over 2
    expected = (math.log(0.75) + math.log(0.25)) / 2
    found = Reward(metric="loss").performance(logits, target)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_more_right_answers_are_a_better_performance(metric: str) -> None:
    reward = Reward(metric=metric)  # pyright: ignore[reportArgumentType]
    scores = [reward.performance(seen.student, seen.target) for seen in map(scored, range(9))]
    assert torch.stack(scores).diff().min() > 0


def test_performance_takes_no_part_in_the_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    target = torch.tensor([0, 1, 2, 0])
    assert not Reward(metric="loss").performance(logits, target).requires_grad


@pytest.mark.parametrize(
    ("epoch", "expected"),
    # 1 / (1 + e^-1/80), e^-1, e^-3, worked out apart
    [(1, 0.50312496), (80, 0.73105858), (240, 0.95257413)],
)
def test_the_gate_by_hand(epoch: int, expected: float) -> None:
    assert Reward(gate_epochs=80.0).gate(epoch) == pytest.approx(expected, rel=1e-7)


def test_without_a_gate_the_reward_is_left_alone() -> None:
    assert Reward(gate_epochs=None).gate(1) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "crystal_ball"}, "reward source=crystal_ball: choose one of next_batch"),
        ({"metric": "luck"}, "reward metric=luck: choose one of accuracy, loss"),
        ({"interval": 0}, "probe_interval=0: give a whole number of at least 1"),
        ({"gate_epochs": 0.0}, "gate_epochs=0.0: give a number above 0, at most 1e.06, or null"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_values_are_refused(options: dict[str, str | int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reward(**options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_instances_that_are_not_to_be_scored_do_not_count(metric: str) -> None:
    reward = Reward(metric=metric)  # pyright: ignore[reportArgumentType]
    logits = torch.randn(9, 4)
    target = torch.tensor([0, 3, IGNORED, 1, IGNORED, 2, 2, IGNORED, 0])
    kept = torch.tensor([0, 1, 3, 5, 6, 8])
    found = reward.performance(logits, target)
    torch.testing.assert_close(found, reward.performance(logits[kept], target[kept]))
    moved = logits.clone()
    moved[target == IGNORED] += torch.randn(3, 4)
    assert torch.equal(reward.performance(moved, target), found)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize("rows", [0, 5])
def test_where_nothing_is_scored_there_is_no_performance(metric: str, rows: int) -> None:
    reward = Reward(metric=metric)  # pyright: ignore[reportArgumentType]
    assert reward.performance(torch.randn(rows, 4), torch.full((rows,), IGNORED)).isnan()


def test_a_class_that_is_not_scored_is_never_right_by_chance() -> None:
    # an index of -100 must not wrap to a class
    logits = torch.eye(4)
    target = torch.tensor([0, IGNORED, 3, IGNORED])
    assert Reward().performance(logits, target) == 1 / 2


def test_a_class_that_is_masked_and_that_a_distribution_leaves_out_does_not_count() -> None:
    student = torch.tensor([[0.5, -math.inf, 1.0], [2.0, -math.inf, -1.0]])
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    agent = rlkd.TemperatureAgent(reward_source="next_batch", metric="loss")
    expected = F.cross_entropy(student[:, [0, 2]], target[:, [0, 2]])
    torch.testing.assert_close(agent.performance(student, target), -expected)
