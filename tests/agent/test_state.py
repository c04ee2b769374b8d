import math

import pytest
import torch

from rlkd.agent import instance_state

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
