import math
from collections.abc import Callable

import pytest
import torch
from tests.reference.feature_loops import at_slowly, nst_slowly
from tests.reference.golden_losses import golden_case
from torch import Tensor

from rlkd.errors import UserError
from rlkd.losses.attention import at, nst

Loss = Callable[..., Tensor]
BOTH = pytest.mark.parametrize("loss", [at, nst])


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def gradient(loss: Tensor, wrt: Tensor) -> Tensor:
    return torch.autograd.grad(loss, wrt)[0]


@pytest.mark.parametrize(("name", "loss"), [("at", at), ("at_pooled", at), ("nst", nst)])
def test_it_equals_the_golden_value_and_gradient(name: str, loss: Loss) -> None:
    case = golden_case(name)
    case.check(loss(**case.inputs), case.inputs)


@pytest.mark.parametrize(("loss", "slow"), [(at, at_slowly), (nst, nst_slowly)])
def test_it_equals_the_loop_in_value_and_gradient(loss: Loss, slow: Loss) -> None:
    student, teacher = maps(3, 2, 2, 3), maps(3, 4, 2, 3).detach()
    rows, expected = loss(student, teacher, reduction="none"), slow(student, teacher)
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-14)
    mean = loss(student, teacher)
    torch.testing.assert_close(mean, rows.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient(mean, student), gradient(expected.mean(), student), rtol=1e-9, atol=1e-14
    )


def test_at_by_hand() -> None:
    # Squares (9, 16) have norm sqrt(337); the teacher looks only at the first of two positions:
    # ((9 / sqrt(337) - 1)^2 + (16 / sqrt(337))^2) / 2 = 1 - 9 / sqrt(337).
    student, teacher = torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([[[[5.0, 0.0]]]])
    torch.testing.assert_close(at(student, teacher).item(), 1 - 9 / math.sqrt(337))


def test_nst_by_hand() -> None:
    # Channels s = (1, 0), t = (0.6, 0.8): 1 + 1 - 2 * 0.6^2 = 1.28.
    student, teacher = torch.tensor([[[[7.0, 0.0]]]]), torch.tensor([[[[3.0, 4.0]]]])
    torch.testing.assert_close(nst(student, teacher).item(), 1.28)


@BOTH
def test_equal_maps_cost_nothing(loss: Loss) -> None:
    student = maps(4, 3, 5, 5)
    value = loss(student, student.detach())
    assert value.abs() < 1e-14
    assert gradient(value, student).abs().max() < 1e-14


@BOTH
def test_only_where_not_how_strongly_counts(loss: Loss) -> None:
    student, teacher = maps(4, 3, 5, 5), maps(4, 6, 5, 5)
    torch.testing.assert_close(loss(7 * student, teacher / 9), loss(student, teacher))


@BOTH
def test_the_order_of_channels_does_not_count(loss: Loss) -> None:
    student, teacher = maps(4, 3, 5, 5), maps(4, 6, 5, 5)
    torch.testing.assert_close(loss(student.flip(1), teacher), loss(student, teacher))


@BOTH
@pytest.mark.parametrize("size", [(4, 4), (16, 16), (9, 7), (4, 16)])
def test_the_larger_side_is_pooled_whoever_has_it(loss: Loss, size: tuple[int, int]) -> None:
    student, teacher = maps(2, 3, 8, 8), maps(2, 5, *size)
    goal = min(size[0], 8), min(size[1], 8)
    small = [torch.nn.functional.adaptive_avg_pool2d(each, goal) for each in (student, teacher)]
    torch.testing.assert_close(loss(student, teacher), loss(*small))


@BOTH
def test_its_gradient_equals_finite_differences(loss: Loss) -> None:
    teacher = maps(2, 3, 2, 2).detach()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (maps(2, 2, 4, 4),), rtol=1e-4)


@BOTH
@pytest.mark.parametrize("dead", ["student", "teacher", "one channel", "both"])
def test_a_dead_map_gives_a_small_finite_gradient(loss: Loss, dead: str) -> None:
    student, teacher = maps(3, 2, 4, 4).detach().float(), maps(3, 2, 4, 4).detach().float()
    if dead in ("student", "both"):
        student.zero_()
    if dead in ("teacher", "both"):
        teacher.zero_()
    if dead == "one channel":
        student[:, 0] = 0
    value = loss(student.requires_grad_(), teacher)
    assert torch.isfinite(value)
    assert gradient(value, student).abs().max() < 10


@BOTH
def test_half_precision_maps_are_compared_in_float32(loss: Loss) -> None:
    student, teacher = torch.randn(2, 3, 4, 4).bfloat16(), torch.randn(2, 3, 4, 4).half()
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value == loss(student.float(), teacher.float())


@pytest.mark.usefixtures("unchecked")
@BOTH
def test_what_is_not_a_map_is_refused(loss: Loss) -> None:
    with pytest.raises(UserError, match=r"teacher's feature has shape \(2, 3\), not .*layer"):
        loss(torch.randn(2, 3, 4, 4), torch.randn(2, 3))
