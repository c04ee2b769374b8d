import math
import statistics
from typing import Any

import pytest
import torch

from rlkd.agent import instance_state
from rlkd.agent.state import FEATURES, StateOf, learning_rate_feature
from rlkd.errors import UserError
from rlkd.types import IGNORED

LOG = math.log


def test_the_state_by_hand() -> None:
    # student p = (5/8, 2/8, 1/8): c_s = 0.625, v = 1 - (0.625 - 0.25) = 0.625
    # teacher p = (1/10, 2/10, 7/10): c_t = 0.7
    student = torch.tensor([[LOG(5), LOG(2), LOG(1)]])
    teacher = torch.tensor([[LOG(1), LOG(2), LOG(7)]])
    torch.testing.assert_close(
        instance_state(student, teacher), torch.tensor([[0.7, 0.625, 0.625]])
    )


def test_a_tie_is_the_greatest_uncertainty() -> None:
    state = instance_state(torch.tensor([[2.0, 2.0, -9.0]]), torch.zeros(1, 3))
    torch.testing.assert_close(state[0, 2].item(), 1.0)
    torch.testing.assert_close(state[0, 0].item(), 1 / 3)


def test_certainty_has_no_uncertainty() -> None:
    state = instance_state(torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]]))
    assert state.tolist() == [[1.0, 1.0, 0.0]]


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_states_lie_in_the_unit_cube(classes: int) -> None:
    state = instance_state(30 * torch.randn(500, classes), 0.1 * torch.randn(500, classes))
    assert state.shape == (500, 3)
    assert state.min() >= 0
    assert state.max() <= 1


def test_each_row_has_a_state_of_its_own() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    whole = instance_state(student, teacher)
    for row in range(6):
        torch.testing.assert_close(
            whole[row : row + 1], instance_state(student[row : row + 1], teacher[row : row + 1])
        )


def test_the_shift_of_all_logits_does_not_matter() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    torch.testing.assert_close(
        instance_state(student + 3, teacher - 5), instance_state(student, teacher)
    )


def test_half_precision_logits_give_float32_states() -> None:
    logits = torch.randn(4, 6)
    state = instance_state(logits.bfloat16(), logits.bfloat16())
    assert state.dtype is torch.float32
    torch.testing.assert_close(
        state, instance_state(logits.bfloat16().float(), logits.bfloat16().float())
    )


CONTEXT: dict[str, float] = {"epoch": 0.25, "learning_rate": 0.5, "hotter_gained": 0.75}


def test_the_extended_state_by_hand() -> None:
    # student p = (5/8, 2/8, 1/8), teacher p = (1/10, 2/10, 7/10), target class 2
    student = torch.tensor([[LOG(5), LOG(2), LOG(1)]])
    teacher = torch.tensor([[LOG(1), LOG(2), LOG(7)]])
    p_s, p_t = (5 / 8, 2 / 8, 1 / 8), (1 / 10, 2 / 10, 7 / 10)
    entropy = {p: -sum(each * LOG(each) for each in p) / LOG(3) for p in (p_s, p_t)}
    deviation = [statistics.pstdev(each[0].tolist()) for each in (student, teacher)]
    expected = {
        "teacher_entropy": entropy[p_t],
        "student_entropy": entropy[p_s],
        "teacher_target": 0.7,
        "student_target": 0.125,
        "divergence": 1 - math.exp(-sum(t * LOG(t / s) for t, s in zip(p_t, p_s, strict=True))),
        "agreement": 0.0,
        "teacher_deviation": deviation[1] / (1 + deviation[1]),
        "student_deviation": deviation[0] / (1 + deviation[0]),
        **CONTEXT,
    }
    found = StateOf("extended")(student, teacher, torch.tensor([2]), CONTEXT)
    assert found.shape == (1, 3 + len(FEATURES))
    assert tuple(expected) == FEATURES
    torch.testing.assert_close(found[0, :3], instance_state(student, teacher)[0])
    torch.testing.assert_close(found[0, 3:], torch.tensor(list(expected.values())))
    some = StateOf(["agreement", "teacher_target"])(teacher, teacher, torch.tensor([2]), CONTEXT)
    torch.testing.assert_close(some[0, 3:], torch.tensor([1.0, 0.7]))


@pytest.mark.parametrize("scale", [0.1, 30.0, 1e30])
def test_the_extended_state_lies_in_the_unit_cube(scale: float) -> None:
    student, teacher = scale * torch.randn(50, 7), torch.randn(50, 7)
    student[:3, 2:4] = teacher[:2, 3] = -torch.inf  # masked classes
    target = torch.randint(7, (50,))
    target[5] = IGNORED
    for given in (target, torch.randn(50, 7).softmax(dim=1)):
        found = StateOf("extended")(student, teacher, given, CONTEXT)
        assert found.isfinite().all()
        assert found.min() >= 0
        assert found.max() <= 1
    student[4, 1] = torch.nan
    found = StateOf("extended")(student, teacher, target, CONTEXT)
    assert found[4, 1:].isnan().all()
    assert found.isfinite().all(dim=1).sum() == 49


def test_a_mixed_target_is_the_mean_of_both() -> None:
    logits, of = torch.randn(4, 5), StateOf(["student_target"])
    both = [of(logits, logits, torch.full((4,), each), CONTEXT)[:, 3] for each in (1, 3)]
    mixed = torch.zeros(4, 5)
    mixed[:, 1], mixed[:, 3] = 0.7, 0.3
    torch.testing.assert_close(
        of(logits, logits, mixed, CONTEXT)[:, 3], 0.7 * both[0] + 0.3 * both[1]
    )


def test_learning_rates_are_even_in_their_logarithm() -> None:
    rates = [0.0, 1e-8, 1e-3, 1e-2, 10.0, 50.0]
    found = [learning_rate_feature(rate) for rate in rates]
    assert found == pytest.approx([0, 0, 5 / 9, 6 / 9, 1, 1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("more", "state=more: give paper, extended, or a list of teacher_entropy, "),
        (["epoch", "age"], "age is no feature"),
        (["epoch", "epoch"], "epoch is named twice"),
    ],
)
def test_what_is_no_feature_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        StateOf(given)
