import math

import pytest
import torch
from torch import Tensor

from rlkd.errors import UserError
from rlkd.losses.decoupled import dkd, without_class
from rlkd.losses.logits import kd
from rlkd.losses.standardise import standardise
from rlkd.types import Temperatures

LN2, LN3 = math.log(2), math.log(3)
# Class 0 is the target. Teacher p = (1/2, 1/4, 1/4), student p = (1/4, 1/2, 1/4).
TEACHER = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
STUDENT = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log()
# Target or not: (1/2, 1/2) against (1/4, 3/4).
TCKD = 0.5 * LN2 + 0.5 * math.log(2 / 3)
# Among the others: (1/2, 1/2) against (2/3, 1/3).
NCKD = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)


def gradient(loss: Tensor, wrt: Tensor) -> Tensor:
    return torch.autograd.grad(loss, wrt)[0]


def test_dkd_by_hand() -> None:
    target = torch.tensor([0])
    loss = dkd(STUDENT, TEACHER, target, 1.0, alpha=3.0, beta=5.0)
    torch.testing.assert_close(loss.item(), 3 * TCKD + 5 * NCKD, rtol=1e-9, atol=0)
    # Scaled by T, the logits soften to the same probabilities; the factor is T^2.
    loss = dkd(3 * STUDENT, 3 * TEACHER, target, 3.0)
    torch.testing.assert_close(loss.item(), 9 * (TCKD + 8 * NCKD), rtol=1e-9, atol=0)


def test_kd_is_dkd_with_the_teachers_doubt_as_beta() -> None:
    # KD = TCKD + (1 - p_target) NCKD; the teacher's softened target has p = 1/2.
    loss = dkd(2 * STUDENT, 2 * TEACHER, torch.tensor([0]), 2.0, alpha=1.0, beta=0.5)
    torch.testing.assert_close(loss, kd(2 * STUDENT, 2 * TEACHER, 2.0), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("name", "beta", "constant"),
    [("dkd_b8", 8.0, 4.0), ("dkd_b2", 2.0, 4.0), ("dkd_instance_T", 8.0, None)],
)
def test_dkd_equals_the_golden_value_and_gradient(
    golden: dict[str, Tensor], name: str, beta: float, constant: float | None
) -> None:
    student = golden[f"{name}/in/student_logits"].clone().requires_grad_()
    temperature = constant or golden[f"{name}/in/temperature"]
    teacher, target = golden[f"{name}/in/teacher_logits"], golden[f"{name}/in/target"]
    loss = dkd(student, teacher, target, temperature, alpha=1.0, beta=beta)
    expected = golden[f"{name}/grad/student_logits"]
    torch.testing.assert_close(loss, golden[f"{name}/loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(loss, student), expected, rtol=1e-6, atol=1e-12)


def test_standardised_logits_in_dkd_equal_the_golden_value_and_gradient(
    golden: dict[str, Tensor],
) -> None:
    student = golden["lskd_dkd_T2/in/student_logits"].clone().requires_grad_()
    teacher, target = golden["lskd_dkd_T2/in/teacher_logits"], golden["lskd_dkd_T2/in/target"]
    expected = golden["lskd_dkd_T2/grad/student_logits"]
    std_student = 2.0 * (student.std(dim=1) + 1e-7)
    std_teacher = 2.0 * (teacher.std(dim=1) + 1e-7)
    as_source = Temperatures(std_student, std_teacher, torch.full_like(std_teacher, 4.0))
    for loss in (
        dkd(standardise(student), standardise(teacher), target, 2.0),
        dkd(student, teacher, target, as_source),
    ):
        torch.testing.assert_close(loss, golden["lskd_dkd_T2/loss"], rtol=1e-6, atol=0)
        found = gradient(loss, student)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_of_a_mixed_target_the_likeliest_class_counts() -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    mixed = torch.tensor([[0.0, 0.7, 0.3, 0.0], [0.4, 0.0, 0.0, 0.6], [0.0, 0.0, 1.0, 0.0]])
    hard = torch.tensor([1, 3, 2])
    assert torch.equal(dkd(student, teacher, mixed, 4.0), dkd(student, teacher, hard, 4.0))
    assert dkd(student, teacher, mixed, 4.0) != dkd(student, teacher, torch.tensor([2, 0, 2]), 4.0)


def test_a_certain_student_still_has_its_doubt() -> None:
    # The student's 1 - p_target is 6e-9, which is 0 in float32 if it is subtracted from 1.
    student = torch.tensor([[20.0, 0.3, -0.2, 0.1]], requires_grad=True)
    teacher, target = torch.tensor([[2.0, -0.5, 0.6, 0.2]]), torch.tensor([0])
    found = dkd(student, teacher, target, 1.0, alpha=1.0, beta=0.0)
    exact = dkd(student.double(), teacher.double(), target, 1.0, alpha=1.0, beta=0.0)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        gradient(found, student), gradient(exact, student), rtol=1e-5, atol=1e-9
    )


def test_a_class_is_left_out_wherever_it_stands() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0]] * 3)
    assert without_class(values, torch.tensor([0, 1, 2])).tolist() == [[2, 3], [1, 3], [1, 2]]


def test_two_classes_are_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"DKD .* 2 classes .* method=kd"):
        dkd(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), 4.0)
