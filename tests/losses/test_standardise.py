import math

import torch
from torch import Tensor

from rlkd.losses.logits import kd
from rlkd.losses.standardise import standardise
from rlkd.types import Temperatures


def test_a_row_by_hand() -> None:
    # Mean 1; unbiased variance (1 + 1) / 1, so that the score is -+ 1 / sqrt 2.
    found = standardise(torch.tensor([[0.0, 2.0]], dtype=torch.float64))
    expected = torch.tensor([[-1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_scale_and_shift_of_a_row_do_not_matter() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64)
    scale = torch.tensor([[0.5], [1.0], [3.0], [40.0]], dtype=torch.float64)
    torch.testing.assert_close(
        standardise(scale * logits - 7), standardise(logits), rtol=1e-5, atol=0
    )


def test_standardised_kd_equals_the_golden_value_and_gradient(golden: dict[str, Tensor]) -> None:
    student = golden["lskd_T2/in/student_logits"].clone().requires_grad_()
    teacher = golden["lskd_T2/in/teacher_logits"]
    std_student, std_teacher = (2.0 * (z.std(dim=1) + 1e-7) for z in (student, teacher))
    as_source = Temperatures(std_student, std_teacher, torch.full_like(std_teacher, 4.0))
    for loss in (
        kd(standardise(student), standardise(teacher), 2.0),
        kd(student, teacher, as_source),
    ):
        (gradient,) = torch.autograd.grad(loss, student)
        expected = golden["lskd_T2/grad/student_logits"]
        torch.testing.assert_close(loss, golden["lskd_T2/loss"], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-12)


def test_equal_logits_become_zeros_with_a_finite_gradient() -> None:
    logits = torch.full((1, 3), 5.0, requires_grad=True)
    found = standardise(logits)
    assert found.tolist() == [[0.0, 0.0, 0.0]]
    assert torch.isfinite(torch.autograd.grad(found.square().sum(), logits)[0]).all()


def test_half_precision_logits_are_standardised_in_float32() -> None:
    assert standardise(torch.randn(2, 3).bfloat16()).dtype is torch.float32
