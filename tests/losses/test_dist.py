import numpy as np
import torch

from rlkd.checks import values_unchecked
from rlkd.losses.dist import dist
from rlkd.losses.logits import kd


def test_dist_by_numpys_correlations() -> None:
    student, teacher = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5).double()
    p_s, p_t = (torch.softmax(z / 4, dim=1).numpy() for z in (student, teacher))
    between = np.mean([1 - np.corrcoef(p_s[i], p_t[i])[0, 1] for i in range(6)])
    within = np.mean([1 - np.corrcoef(p_s[:, c], p_t[:, c])[0, 1] for c in range(5)])
    loss = dist(student, teacher, 4.0, beta=3.0, gamma=0.5)
    expected = 16 * (3.0 * between + 0.5 * within)
    torch.testing.assert_close(loss.item(), float(expected), rtol=1e-9, atol=0)


def test_published_weights_are_the_default() -> None:
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    expected = 2 * dist(student, teacher, 4.0, beta=1.0, gamma=1.0)
    torch.testing.assert_close(dist(student, teacher, 4.0), expected)


def test_opposite_predictions_correlate_by_minus_one() -> None:
    # Rows (3/4, 1/4) against (1/4, 3/4), in both orders: every row's r and every class's is -1.
    teacher = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log()
    loss = dist(teacher.flip(0), teacher, 1.0, beta=1.0, gamma=1.0)
    torch.testing.assert_close(loss.item(), 2.0 + 2.0, rtol=1e-6, atol=0)


def test_a_less_confident_student_with_the_same_relations_loses_nothing() -> None:
    teacher = torch.softmax(torch.randn(6, 5, dtype=torch.float64), dim=1)
    student = 0.5 * teacher + 0.5 / 5
    assert dist(student.log(), teacher.log(), 1.0).abs() < 1e-12
    assert kd(student.log(), teacher.log(), 1.0) > 1e-3


def test_each_part_has_its_own_factor() -> None:
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    temperature = torch.tensor([1.0, 2.0, 3.0])
    within = dist(student, teacher, temperature, beta=0.0, gamma=1.0)
    rows = [
        dist(student[i : i + 1], teacher[i : i + 1], temperature[i : i + 1], beta=1.0, gamma=0.0)
        for i in range(3)
    ]
    between = dist(student, teacher, temperature, beta=1.0, gamma=0.0)
    torch.testing.assert_close(between, torch.stack(rows).mean())
    # The mean of 1, 4 and 9 times at most 2.
    assert 0 < within <= 14 / 3 * 2


def test_a_class_that_nobody_predicts_keeps_the_gradient_finite() -> None:
    student = torch.tensor([[0.0, 1.0, -200.0], [1.0, 0.0, -200.0]], requires_grad=True)
    loss = dist(student, torch.randn(2, 3), 1.0)
    assert torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


def test_a_student_that_says_the_same_of_all_is_uncorrelated_and_not_thrown_away() -> None:
    """Its gradient was 1e8, of what rounding left of the deviations."""
    student = torch.zeros(6, 5, requires_grad=True)
    loss = dist(student, torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), 4.0)
    loss.backward()
    assert float(loss.detach()) == 16 * (2 + 2)
    assert student.grad is not None
    assert not student.grad.any()


def test_a_batch_of_no_instance_has_no_loss() -> None:
    assert dist(torch.zeros(0, 5), torch.zeros(0, 5), 4.0).isnan()


def test_a_row_of_nan_is_not_taken_for_one_that_does_not_vary() -> None:
    teacher = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    teacher[2] = torch.nan
    with values_unchecked():  # as in the steps of a run, which looks at the loss
        assert dist(torch.zeros(6, 5), teacher, 4.0).isnan()
        assert dist(torch.randn(6, 5), teacher, 4.0).isnan()
