import math
from collections.abc import Callable

import pytest
import torch
from tests.reference.golden_losses import golden_case
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.losses.hints import VID, FitNet, fitnet, vid

Head = Callable[[Tensor, Tensor], nn.Module]
HEADS = pytest.mark.parametrize("head", [FitNet, VID])
SIZES = pytest.mark.parametrize(
    ("student_size", "teacher_size"),
    [((8, 8), (8, 8)), ((8, 8), (4, 4)), ((4, 4), (8, 8)), ((8, 8), (3, 5)), ((2, 6), (7, 7))],
)


def gradient(loss: Tensor, wrt: Tensor) -> Tensor:
    return torch.autograd.grad(loss, wrt)[0]


def test_fitnet_equals_the_golden_value_and_gradient() -> None:
    case = golden_case("fitnet_hint")
    case.check(fitnet(**case.inputs), case.inputs)


def test_vid_equals_the_golden_value_and_every_gradient() -> None:
    case = golden_case("vid")
    student, teacher = case.inputs["student_feature"], case.inputs["teacher_feature"]
    loss = VID(student, teacher).double()
    weights = {"w0": "regressor.0.weight", "w2": "regressor.2.weight", "w4": "regressor.4.weight"}
    weights["log_scale"] = "raw_variance"
    loss.load_state_dict({ours: case.inputs[theirs] for theirs, ours in weights.items()})
    parameters = dict(loss.named_parameters())
    trained = {theirs: parameters[ours] for theirs, ours in weights.items()}
    case.check(loss(student, teacher), {"student_feature": student, **trained})


def test_fitnet_by_hand() -> None:
    student, teacher = torch.zeros(2, 1, 1, 2), torch.tensor([[[[1.0, 2.0]]], [[[3.0, 0.0]]]])
    assert fitnet(student, teacher, reduction="none").tolist() == [2.5, 4.5]
    assert fitnet(student, teacher) == 3.5
    assert fitnet(teacher, teacher) == 0


def test_vid_by_hand() -> None:
    # Channel variances 1 and e^2, differences 2 and 3: (4 + 0 + 9 / e^2 + 2) / 2 / 2.
    student, teacher = torch.zeros(1, 2, 1, 1), torch.tensor([[[[2.0]], [[3.0]]]])
    value = vid(student, teacher, torch.tensor([1.0, math.exp(2)]))
    torch.testing.assert_close(value.item(), (6 + 9 / math.exp(2)) / 4)


def test_vid_gives_a_row_its_own_value() -> None:
    student, teacher, variance = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.rand(2) + 1
    values = vid(student, teacher, variance, reduction="none")
    alone = [vid(student[i : i + 1], teacher[i : i + 1], variance) for i in range(3)]
    torch.testing.assert_close(values, torch.stack(alone))
    torch.testing.assert_close(vid(student, teacher, variance), values.mean())


def test_the_variance_starts_where_it_was_told_to() -> None:
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(VID(student, teacher).variance, torch.full((5,), 5.0))
    small = VID(student, teacher, initial_variance=1e-3, eps=1e-6).variance
    torch.testing.assert_close(small, torch.full((5,), 1e-3))


def test_the_best_variance_is_the_mean_squared_error() -> None:
    # d/dv (m / v + ln v) = 0 at v = m.
    student = torch.randn(64, 1, 2, 2, dtype=torch.float64)
    teacher = 3 * torch.randn(64, 1, 2, 2, dtype=torch.float64)
    best = (student - teacher).square().mean().reshape(1).requires_grad_()
    assert gradient(vid(student, teacher, best), best).abs() < 1e-12


@HEADS
@SIZES
def test_other_channels_and_sizes_fit_and_everything_trains(
    head: Head, student_size: tuple[int, int], teacher_size: tuple[int, int]
) -> None:
    student = torch.randn(4, 3, *student_size, requires_grad=True)
    teacher = torch.randn(4, 5, *teacher_size)
    loss = head(student[:2], teacher[:2])
    value = loss(student, teacher)
    assert value.shape == ()
    value.backward()
    assert torch.isfinite(value)
    assert student.grad is not None
    assert student.grad.any()
    assert all(each.grad is not None and each.grad.any() for each in loss.parameters())


@SIZES
def test_training_the_regressor_alone_lowers_the_loss(
    student_size: tuple[int, int], teacher_size: tuple[int, int]
) -> None:
    student, teacher = torch.randn(4, 3, *student_size), torch.rand(4, 5, *teacher_size)
    loss = FitNet(student, teacher)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.3)
    values: list[float] = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(student, teacher)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.95 * values[0]


def test_the_regressor_doubles_and_halves_by_its_stride() -> None:
    def regressed(size: int, goal: int) -> Tensor:
        student = torch.randn(2, 3, size, size)
        return FitNet(student, torch.randn(2, 5, goal, goal)).regressor(student)

    assert regressed(4, 8).shape == (2, 5, 8, 8)
    assert regressed(8, 4).shape == (2, 5, 4, 4)
    assert regressed(8, 8).shape == (2, 5, 8, 8)


def test_the_regressor_reaches_negative_values_without_its_relu() -> None:
    student, teacher = torch.randn(8, 3, 4, 4), torch.randn(8, 5, 4, 4)
    assert FitNet(student, teacher).regressor(student).min() == 0
    assert FitNet(student, teacher, relu=False).regressor(student).min() < 0


@HEADS
def test_it_returns_from_its_state(head: Head) -> None:
    student, teacher = torch.randn(4, 3, 8, 8), torch.randn(4, 5, 4, 4)
    loss, other = head(student, teacher), head(student, teacher)
    loss(student, teacher)
    assert loss(student, teacher) != other(student, teacher)
    other.load_state_dict(loss.state_dict())
    assert loss.eval()(student, teacher) == other.eval()(student, teacher)


@HEADS
def test_zero_maps_give_finite_gradients(head: Head) -> None:
    student, teacher = torch.zeros(4, 3, 4, 4, requires_grad=True), torch.zeros(4, 5, 4, 4)
    loss = head(student, teacher)
    value = loss(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    for each in loss.parameters():
        assert each.grad is not None
        assert torch.isfinite(each.grad).all()


@HEADS
def test_half_precision_maps_are_compared_in_float32(head: Head) -> None:
    student, teacher = torch.randn(4, 3, 4, 4).bfloat16(), torch.randn(4, 5, 4, 4).half()
    loss = head(student, teacher)
    assert loss(student, teacher).dtype == torch.float32


def test_fitnet_of_different_shapes_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"\(4, 3, 2, 2\) .* \(4, 5, 2, 2\): .*losses\.FitNet"):
        fitnet(torch.zeros(4, 3, 2, 2), torch.zeros(4, 5, 2, 2))


@pytest.mark.usefixtures("unchecked")
@HEADS
def test_what_is_not_a_map_is_refused_when_it_is_built(head: Head) -> None:
    with pytest.raises(UserError, match=r"student's feature has shape \(2, 3\), not .*layer"):
        head(torch.randn(2, 3), torch.randn(2, 3, 4, 4))


@pytest.mark.parametrize(("variance", "eps"), [(1e-6, 1e-5), (5.0, 0.0), (math.inf, 1e-5)])
def test_a_variance_that_cannot_be_is_refused(variance: float, eps: float) -> None:
    example = torch.randn(2, 3, 4, 4)
    with pytest.raises(UserError, match=r"^(initial_variance|eps)=.*: give a number above "):
        VID(example, example, initial_variance=variance, eps=eps)
