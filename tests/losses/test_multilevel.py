from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlkd.errors import UserError
from rlkd.losses.logits import kd
from rlkd.losses.multilevel import batch_correlation, class_correlation, mlkd
from rlkd.types import Temperatures

PUBLISHED = (2.0, 3.0, 4.0, 5.0, 6.0)


@pytest.mark.parametrize(
    ("name", "loss"),
    [("mlkd_batch_corr_T4", batch_correlation), ("mlkd_class_corr_T4", class_correlation)],
)
def test_a_correlation_equals_the_golden_value_and_gradient(
    golden: dict[str, Tensor], name: str, loss: Callable[..., Tensor]
) -> None:
    student = golden[f"{name}/in/student_logits"].clone().requires_grad_()
    found = loss(student, golden[f"{name}/in/teacher_logits"], 4.0)
    (gradient,) = torch.autograd.grad(found, student)
    expected = golden[f"{name}/grad/student_logits"]
    torch.testing.assert_close(found, golden[f"{name}/loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-15)


def test_correlations_by_hand() -> None:
    # The student is certain of one class for both rows, the teacher of one class each.
    student = torch.tensor([[1e4, 0.0, 0.0], [1e4, 0.0, 0.0]])
    teacher = torch.tensor([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0]])
    # Rows: ones(2, 2) against the identity: 2 entries differ by 1, over 2 rows.
    assert batch_correlation(student, teacher, 1.0) == 1.0
    # Classes: diag(2, 0, 0) against diag(1, 1, 0): again 2 entries, over 3 classes.
    torch.testing.assert_close(class_correlation(student, teacher, 1.0).item(), 2 / 3)


def test_mlkd_at_four_is_the_sum_of_three_levels_at_the_published_temperatures() -> None:
    student, teacher = torch.randn(4, 5).double(), torch.randn(4, 5).double()
    levels = (kd, batch_correlation, class_correlation)
    expected = sum(level(student, teacher, t) for t in PUBLISHED for level in levels)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(mlkd(student, teacher, 4.0), expected, rtol=1e-9, atol=0)


def test_each_level_has_its_weight() -> None:
    student, teacher = torch.randn(4, 5).double(), torch.randn(4, 5).double()
    strong = (torch.randn(4, 5).double(), torch.randn(4, 5).double())
    found = mlkd(
        student,
        teacher,
        4.0,
        *strong,
        factors=[1.0],
        instance_weight=2.0,
        batch_weight=3.0,
        class_weight=5.0,
        strong_weight=7.0,
    )
    expected = (
        2 * kd(student, teacher, 4.0)
        + 3 * batch_correlation(student, teacher, 4.0)
        + 5 * class_correlation(student, teacher, 4.0)
        + 7 * kd(*strong, 4.0)
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_the_strong_view_adds_its_instance_level_at_every_temperature() -> None:
    student, teacher = torch.randn(4, 5).double(), torch.randn(4, 5).double()
    strong = (torch.randn(4, 5).double(), torch.randn(4, 5).double())
    added = mlkd(student, teacher, 4.0, *strong) - mlkd(student, teacher, 4.0)
    expected = sum(kd(*strong, t) for t in PUBLISHED)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(added, expected, rtol=1e-9, atol=0)


def test_a_weight_of_the_instance_scales_with_the_square_of_each_factor() -> None:
    # Where T^2 is given as the weight, it must do what the product of the temperatures does.
    student, teacher, t = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([1.0, 2.0, 4.0, 8.0])
    found = mlkd(student, teacher, Temperatures(t, t, t**2))
    torch.testing.assert_close(found, mlkd(student, teacher, t))


def test_one_networks_strong_view_alone_is_refused() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(UserError, match="strong view of one network only: give both"):
        mlkd(logits, logits, 4.0, student_logits_strong=logits)


@pytest.mark.parametrize("factors", [[], [1.0, 0.0], [-1.0]])
def test_factors_that_make_no_temperature_are_refused(factors: list[float]) -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(UserError, match=r"factors=.*: give a (list|number).* above 0"):
        mlkd(logits, logits, 4.0, factors=factors)
