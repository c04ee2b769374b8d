import math

import torch

from rlkd.losses.logits import kd
from rlkd.losses.ttm import ttm, wttm
from rlkd.types import Temperatures

# p = (16/17, 1/17); its square root is proportional to (4, 1): q = (4/5, 1/5).
TEACHER = torch.tensor([[math.log(16), 0.0]], dtype=torch.float64)
STUDENT = torch.zeros(1, 2, dtype=torch.float64)
DIVERGENCE = math.log(2) + 0.8 * math.log(0.8) + 0.2 * math.log(0.2)


def test_ttm_by_hand() -> None:
    loss = ttm(STUDENT, TEACHER, 2.0)
    torch.testing.assert_close(loss.item(), DIVERGENCE, rtol=1e-9, atol=0)


def test_wttm_by_hand() -> None:
    # sqrt(16/17) + sqrt(1/17) = 5 / sqrt 17.
    loss = wttm(STUDENT, TEACHER, 2.0)
    torch.testing.assert_close(loss.item(), 5 / math.sqrt(17) * DIVERGENCE, rtol=1e-9, atol=0)


def test_an_unsure_teacher_weighs_classes_to_the_one_minus_one_over_t() -> None:
    student, flat = torch.randn(1, 7, dtype=torch.float64), torch.zeros(1, 7, dtype=torch.float64)
    ratio = wttm(student, flat, 5.0) / ttm(student, flat, 5.0)
    torch.testing.assert_close(ratio.item(), 7**0.8, rtol=1e-9, atol=0)


def test_a_certain_teacher_weighs_one() -> None:
    student, certain = torch.randn(1, 3), torch.tensor([[500.0, 0.0, 0.0]])
    torch.testing.assert_close(wttm(student, certain, 4.0), ttm(student, certain, 4.0))


def test_at_temperature_one_both_are_kd() -> None:
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    expected = kd(student, teacher, 1.0)
    torch.testing.assert_close(ttm(student, teacher, 1.0), expected)
    torch.testing.assert_close(wttm(student, teacher, 1.0), expected)


def test_only_the_teachers_temperature_is_used() -> None:
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    four, other = torch.full((4,), 4.0), torch.full((4,), 9.0)
    for loss in (ttm, wttm):
        expected = loss(student, teacher, 4.0)
        assert torch.equal(loss(student, teacher, Temperatures(other, four, other)), expected)
        assert not torch.equal(loss(student, teacher, Temperatures(four, other)), expected)


def test_logits_as_large_as_are_taken_are_finite_once_they_are_divided() -> None:
    teacher = torch.tensor([[1e31, 0.0, -1e31]])
    assert ttm(torch.zeros(1, 3), teacher, 1e-6).isfinite()
