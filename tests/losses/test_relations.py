import math
from collections.abc import Callable

import pytest
import torch
from tests.reference.feature_loops import cc_slowly, pkt_slowly, rkd_slowly, sp_slowly
from tests.reference.golden_losses import golden_case
from torch import Tensor

from rlkd.errors import UserError
from rlkd.losses.relations import CC, cc, pkt, rkd, sp

Loss = Callable[..., Tensor]
ALL = pytest.mark.parametrize("loss", [sp, cc, rkd, pkt])
SHAPELESS = pytest.mark.parametrize("loss", [sp, rkd, pkt])


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def gradient(loss: Tensor, wrt: Tensor) -> Tensor:
    return torch.autograd.grad(loss, wrt)[0]


@pytest.mark.parametrize(("name", "loss"), [("sp", sp), ("cc", cc), ("rkd", rkd), ("pkt", pkt)])
def test_it_equals_the_golden_value_and_gradient(name: str, loss: Loss) -> None:
    case = golden_case(name)
    case.check(loss(**case.inputs), case.inputs)


@pytest.mark.parametrize(
    ("loss", "slow"), [(sp, sp_slowly), (cc, cc_slowly), (rkd, rkd_slowly), (pkt, pkt_slowly)]
)
@pytest.mark.parametrize("count", [2, 5])
def test_it_equals_the_loop_in_value_and_gradient(loss: Loss, slow: Loss, count: int) -> None:
    student, teacher = rows(count, 4), rows(count, 4).detach()
    fast, expected = loss(student, teacher), slow(student, teacher)
    # The loop of pkt leaves out the 1e-7 that is added to each norm.
    rtol = 1e-5 if loss is pkt else 1e-9
    torch.testing.assert_close(fast, expected, rtol=rtol, atol=1e-13)
    torch.testing.assert_close(
        gradient(fast, student), gradient(expected, student), rtol=rtol, atol=1e-8
    )


def test_sp_by_hand() -> None:
    # Student rows at right angles: G = identity. Equal teacher rows: G is 1 / sqrt(2) throughout.
    # Twice (1 - r)^2 and twice r^2 with r^2 = 1 / 2, over 2^2: 1 - 1 / sqrt(2).
    value = sp(torch.eye(2), torch.ones(2, 3, 2, 2))
    torch.testing.assert_close(value.item(), 1 - math.sqrt(0.5))


def test_cc_by_hand() -> None:
    # d = (1, 2), (3, 4), (5, 6): (1 * 3 + 2 * 4 + 3 * 5 + 4 * 6) / 2.
    student = torch.tensor([[1.0, -2.0], [-3.0, 4.0], [5.0, 6.0]])
    assert cc(student, torch.zeros(3, 2)) == 25


def test_rkd_by_hand() -> None:
    # Student: an equilateral triangle, all distances over their mean 1, all cosines 1 / 2.
    # Teacher: points 0, 1, 2 on a line; distances 1, 1, 2 over 4 / 3; cosines 1, -1, 1.
    # Of 9 entries 4 differ by 1 / 4 and 2 by 1 / 2: 25 (4 / 32 + 2 / 8) / 9.
    # Of 27 entries the corners count twice: two differ by 1 / 2, one by 3 / 2, whose Huber losses
    # are 1 / 8, 1 / 8 and 1: 50 * 2.5 / 27.
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    teacher = torch.tensor([[0.0], [1.0], [2.0]])
    expected = 25 * 0.375 / 9 + 50 * 2.5 / 27
    torch.testing.assert_close(rkd(student, teacher).item(), expected)
    distances = rkd(student, teacher, distance_weight=1.0, angle_weight=0.0)
    torch.testing.assert_close(distances.item(), 0.375 / 9)


def test_pkt_by_hand() -> None:
    # Right angles: P rows (1, 1/2) / 1.5 = (2/3, 1/3). Equal teacher rows: (1/2, 1/2).
    expected = 2 * (0.5 * math.log(0.75) + 0.5 * math.log(1.5)) / 4
    value = pkt(torch.eye(2, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(value.item(), expected, rtol=1e-6, atol=0)


@ALL
def test_equal_networks_cost_nothing(loss: Loss) -> None:
    student = rows(6, 4)
    value = loss(student, student.detach())
    assert value.abs() < 1e-14
    assert gradient(value, student).abs().max() < 1e-7


@SHAPELESS
def test_scale_and_rotation_of_the_student_do_not_count(loss: Loss) -> None:
    student, teacher = rows(6, 4), rows(6, 9)
    rotation = torch.linalg.qr(rows(4, 4).detach())[0]
    torch.testing.assert_close(loss(3 * student @ rotation, teacher), loss(student, teacher))


@SHAPELESS
def test_student_and_teacher_may_have_any_widths(loss: Loss) -> None:
    student = rows(6, 4)
    value = loss(student, rows(6, 32).detach())
    assert value > 0
    assert gradient(value, student).abs().max() > 0


def test_sp_compares_maps_of_any_channels_and_size() -> None:
    student, teacher = rows(4, 3, 8, 8), rows(4, 5, 2, 3)
    torch.testing.assert_close(
        sp(student, teacher), sp(student.flatten(1), teacher.flatten(1)), rtol=0, atol=0
    )


@ALL
def test_its_gradient_equals_finite_differences(loss: Loss) -> None:
    teacher = rows(4, 3).detach()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (rows(4, 3),), rtol=1e-4)


@ALL
@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
@pytest.mark.parametrize("value", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("equal", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_and_zero_rows_give_a_small_finite_gradient(
    loss: Loss, whose: str, value: float, equal: int, dtype: torch.dtype
) -> None:
    student, teacher = torch.randn(4, 3, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    if whose in ("student", "both"):
        student[:equal] = value
    if whose in ("teacher", "both"):
        teacher[:equal] = value
    result = loss(student.requires_grad_(), teacher)
    assert torch.isfinite(result)
    assert gradient(result, student).abs().max() < 100


@ALL
def test_a_single_row_has_no_relations(loss: Loss) -> None:
    student = rows(1, 3)
    value = loss(student, rows(1, 3).detach())
    assert value.abs() < 1e-14
    assert gradient(value, student).abs().max() < 1e-7


def test_opposite_rows_are_finite_in_pkt() -> None:
    # In float32 some of these cosines come out below -1.
    for row in torch.randn(100, 1, 512):
        student = torch.cat([row, -row]).requires_grad_()
        value = pkt(student, torch.randn(2, 8))
        assert torch.isfinite(value)
        assert torch.isfinite(gradient(value, student)).all()


@ALL
def test_half_precision_is_compared_in_float32(loss: Loss) -> None:
    student, teacher = torch.randn(4, 3).bfloat16(), torch.randn(4, 3).half()
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value == loss(student.float(), teacher.float())


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_cc_takes_odd_and_even_batches(count: int) -> None:
    # Each of the count - 1 neighbouring pairs costs 1 * 1 + 1 * 1.
    assert cc(torch.ones(count, 2), torch.zeros(count, 2)) == 2


def test_cc_of_different_widths_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"\(4, 3\) .* \(4, 5\): .*rlkd\.losses\.CC"):
        cc(torch.zeros(4, 3), torch.zeros(4, 5))


def test_the_cc_module_projects_both_and_trains_its_weights() -> None:
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 9)
    loss = CC(student[:2], teacher[:2], dim=3)
    value = loss(student, teacher)
    projected = loss.student_projection(student), loss.teacher_projection(teacher)
    assert value == cc(*projected)
    assert projected[0].shape == projected[1].shape == (6, 3)
    value.backward()
    assert all(each.grad is not None and each.grad.any() for each in loss.parameters())
    assert student.grad is not None
    assert student.grad.any()


def test_the_cc_module_returns_from_its_state() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 9)
    loss, other = CC(student, teacher), CC(student, teacher)
    assert loss(student, teacher) != other(student, teacher)
    other.load_state_dict(loss.state_dict())
    assert loss(student, teacher) == other(student, teacher)
