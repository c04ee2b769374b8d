import math

import pytest
import torch
from torch import Tensor

from rlkd.errors import UserError
from rlkd.losses.nkd import nkd

# Class 0 is the target. Teacher p = (1/2, 1/4, 1/4), student p = (1/4, 1/2, 1/4).
TEACHER = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
STUDENT = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log()
TARGET = torch.tensor([0])


def test_nkd_by_hand() -> None:
    # -1/2 ln 1/4, and among the others (1/2, 1/2) against (2/3, 1/3).
    of_target = math.log(2)
    among_others = -0.5 * math.log(2 / 3) - 0.5 * math.log(1 / 3)
    loss = nkd(STUDENT, TEACHER, TARGET, 1.0)
    torch.testing.assert_close(loss.item(), of_target + 1.5 * among_others, rtol=1e-9, atol=0)


def test_the_temperature_is_the_other_classes_alone() -> None:
    # At T = 2 the others' odds 2 : 1 become sqrt 2 : 1; the target part stays -1/2 ln 1/4.
    root = math.sqrt(2)
    among_others = -0.5 * math.log(root / (1 + root)) - 0.5 * math.log(1 / (1 + root))
    loss = nkd(STUDENT, TEACHER, TARGET, 2.0, gamma=3.0)
    torch.testing.assert_close(loss.item(), math.log(2) + 3 * 4 * among_others, rtol=1e-9, atol=0)
    of_target = nkd(STUDENT, TEACHER, TARGET, 9.0, gamma=0.0)
    torch.testing.assert_close(of_target.item(), math.log(2), rtol=1e-9, atol=0)


def test_the_target_has_no_part_among_the_others() -> None:
    def among_others(student: Tensor) -> Tensor:
        first = nkd(student, TEACHER, TARGET, 2.0, gamma=1.0)
        return first - nkd(student, TEACHER, TARGET, 2.0, gamma=0.0)

    moved = STUDENT + torch.tensor([[5.0, 0.0, 0.0]])
    torch.testing.assert_close(among_others(moved), among_others(STUDENT), rtol=1e-9, atol=0)


def test_of_a_mixed_target_the_likeliest_class_counts() -> None:
    student, teacher = torch.randn(2, 4), torch.randn(2, 4)
    mixed = torch.tensor([[0.0, 0.7, 0.3, 0.0], [0.4, 0.0, 0.0, 0.6]])
    hard = torch.tensor([1, 3])
    assert torch.equal(nkd(student, teacher, mixed, 4.0), nkd(student, teacher, hard, 4.0))


def test_two_classes_are_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"NKD .* 2 classes .* method=kd"):
        nkd(torch.zeros(1, 2), torch.zeros(1, 2), TARGET, 4.0)
