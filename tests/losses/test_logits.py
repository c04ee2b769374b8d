import math
from typing import Any

import jaxtyping
import pytest
import torch
from tests.reference.kd_rows import kd_slowly
from torch import Tensor
from torch.nn import functional as F

from rlkd import losses
from rlkd.checks import values_unchecked
from rlkd.errors import InputError
from rlkd.losses import (
    as_temperatures,
    cross_entropy,
    kd,
    log_softened,
    supervised,
    supervised_views,
)
from rlkd.types import Temperatures, class_index

SMOOTHING, WEIGHTS = 0.1, torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)


def test_smoothed_and_weighted_cross_entropy_is_torchs(logits: tuple[Tensor, ...]) -> None:
    student, target = logits[0], torch.tensor([0, 1, 2, 3, 3, 3])
    smoothed = F.cross_entropy(student, target, label_smoothing=SMOOTHING)
    assert torch.equal(supervised(student, target, label_smoothing=SMOOTHING), smoothed)
    # Of distributions torch's mean is over the rows, one-hot ones too.
    one_hot = F.one_hot(target, 4).double()
    both = F.cross_entropy(student, one_hot, weight=WEIGHTS, label_smoothing=SMOOTHING)
    for given in (target, one_hot):
        found = supervised(student, given, label_smoothing=SMOOTHING, class_weights=WEIGHTS.float())
        torch.testing.assert_close(found, both)
    rows = cross_entropy(student, target, class_weights=WEIGHTS, reduction="none")
    torch.testing.assert_close(
        rows, F.cross_entropy(student, target, weight=WEIGHTS, reduction="none")
    )
    # Torch's other mean, by hand: over the weights of the rows' classes.
    torch.testing.assert_close(
        rows.sum() / WEIGHTS[target].sum(), F.cross_entropy(student, target, weight=WEIGHTS)
    )


def test_halves_of_a_weighted_batch_add_up_to_the_whole(logits: tuple[Tensor, ...]) -> None:
    student, target = logits[0], torch.tensor([0, 0, 0, 3, 3, 3])
    whole = supervised(student, target, class_weights=WEIGHTS)
    halves = [
        supervised(student[rows], target[rows], class_weights=WEIGHTS)
        for rows in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_both_views_are_smoothed_and_a_detectors_own_loss_is_not(
    logits: tuple[Tensor, ...],
) -> None:
    plain, strong, _ = logits
    target, own = torch.tensor([0, 1, 2, 3, 3, 3]), torch.tensor(7.0)
    views = supervised_views(plain, target, None, strong, SMOOTHING)
    expected = sum(
        F.cross_entropy(each, target, label_smoothing=SMOOTHING) for each in (plain, strong)
    )
    torch.testing.assert_close(views, expected)
    assert supervised(plain, target, own, label_smoothing=SMOOTHING) is own


def gradient(loss: Tensor, wrt: Tensor) -> Tensor:
    return torch.autograd.grad(loss, wrt)[0]


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher, and a temperature a row, in float64."""
    student = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    teacher = 2 * torch.randn(6, 4, dtype=torch.float64)
    temperature = torch.tensor([0.5, 1.0, 2.0, 4.0, 7.5, 9.9], dtype=torch.float64)
    return student, teacher, temperature


def test_kd_by_hand() -> None:
    # T = 2 turns logits (2 ln 3, 0) into p = (3/4, 1/4), and (0, 0) into q = (1/2, 1/2):
    # T^2 KL = 4 (3/4 ln(3/2) + 1/4 ln(1/2)).
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = kd(torch.zeros(1, 2), teacher, torch.tensor([2.0]))
    torch.testing.assert_close(loss.item(), expected, rtol=1e-6, atol=0)


def test_kd_averages_rows_each_with_its_own_squared_temperature() -> None:
    # Scaled by T, both rows soften to p = (3/4, 1/4), q = (1/2, 1/2); the mean of 1 and 9 is 5.
    temperature = torch.tensor([1.0, 3.0])
    teacher = temperature[:, None] * torch.tensor([[math.log(3), 0.0]] * 2)
    expected = 5 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = kd(torch.zeros(2, 2), teacher, temperature)
    torch.testing.assert_close(loss.item(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["kd_T4", "kd_instance_T"])
def test_kd_equals_the_golden_value_and_gradient(golden: dict[str, Tensor], name: str) -> None:
    student = golden[f"{name}/in/student_logits"].clone().requires_grad_()
    temperature = golden.get(f"{name}/in/temperature", 4.0)
    loss = kd(student, golden[f"{name}/in/teacher_logits"], temperature)
    expected = golden[f"{name}/grad/student_logits"]
    torch.testing.assert_close(loss, golden[f"{name}/loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(loss, student), expected, rtol=1e-6, atol=1e-12)


def test_kd_equals_the_row_loop_in_value_and_gradient(
    logits: tuple[Tensor, Tensor, Tensor],
) -> None:
    student, teacher, temperature = logits
    fast = kd(student, teacher, temperature, reduction="none")
    slow = kd_slowly(student, teacher, temperature)
    assert isinstance(fast, Tensor)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-14)
    mean = kd(student, teacher, temperature)
    torch.testing.assert_close(
        gradient(mean, student), gradient(slow.mean(), student), rtol=1e-9, atol=1e-14
    )


def test_kd_gradient_equals_finite_differences(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, temperature = logits

    def loss(z: Tensor) -> Tensor:
        return kd(z, teacher, temperature)

    assert torch.autograd.gradcheck(loss, (student,), rtol=1e-4)


def test_equal_temperatures_equal_the_constant_form(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, _ = logits
    vector = torch.full((6,), 4.0)
    constant, filled = kd(student, teacher, 4.0), kd(student, teacher, vector)
    both = kd(student, teacher, Temperatures.same(vector))
    assert constant == filled == both
    assert torch.equal(gradient(constant, student), gradient(filled, student))


def test_a_row_does_not_feel_another_rows_temperature(
    logits: tuple[Tensor, Tensor, Tensor],
) -> None:
    student, teacher, temperature = logits
    moved = temperature.clone()
    moved[0] = 8.0
    before = kd(student, teacher, temperature, reduction="none")
    after = kd(student, teacher, moved, reduction="none")
    assert torch.equal(before[1:], after[1:])
    assert before[0] != after[0]


def test_kd_of_equal_networks_is_zero(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, _, temperature = logits
    assert kd(student, student.detach(), temperature).abs() < 1e-14


def test_kd_takes_a_temperature_for_each_network() -> None:
    # z_s / 1 = (0, 0) and z_t / 2 = (ln 3, 0): the factor is 1 * 2.
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    temperatures = Temperatures(student=torch.tensor([1.0]), teacher=torch.tensor([2.0]))
    expected = 2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = kd(torch.zeros(1, 2), teacher, temperatures)
    torch.testing.assert_close(loss.item(), expected, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(6, 1), (1,), (5,), (), (6, 4)])
def test_a_temperature_that_would_broadcast_is_refused(
    logits: tuple[Tensor, Tensor, Tensor], shape: tuple[int, ...]
) -> None:
    student, teacher, _ = logits
    with pytest.raises(ValueError, match=r"give one temperature a row, shape \(6,\)"):
        kd(student, teacher, torch.full(shape, 4.0))


@pytest.mark.usefixtures("unchecked")
def test_a_whole_number_is_a_temperature_too(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, _ = logits
    assert kd(student, teacher, 4) == kd(student, teacher, 4.0)
    assert as_temperatures(4, like=student).student.dtype == torch.float32


def test_half_precision_logits_are_softened_in_float32() -> None:
    assert log_softened(torch.zeros(2, 3, dtype=torch.bfloat16), torch.ones(2)).dtype is (
        torch.float32
    )


def test_large_logits_and_small_temperatures_stay_finite() -> None:
    student = torch.tensor([[300.0, -300.0, 0.0]], requires_grad=True)
    loss = kd(student, -student.detach(), torch.tensor([0.05]))
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)).all()


def test_cross_entropy_by_hand() -> None:
    # softmax of (ln 3, 0) is (3/4, 1/4): rows cost -ln 3/4 and -ln 1/4.
    logits = torch.tensor([[math.log(3), 0.0]] * 2)
    expected = torch.tensor([-math.log(0.75), -math.log(0.25)])
    target = torch.tensor([0, 1])
    torch.testing.assert_close(cross_entropy(logits, target, reduction="none"), expected)
    torch.testing.assert_close(cross_entropy(logits, target), expected.mean())
    assert supervised_views(logits, target) == cross_entropy(logits, target)
    both = supervised_views(logits, target, student_logits_strong=logits.flip(0))
    strong = cross_entropy(logits.flip(0), target)
    torch.testing.assert_close(both, expected.mean() + strong)


def test_cross_entropy_with_a_distribution_is_the_mean_over_it() -> None:
    logits = torch.tensor([[math.log(3), 0.0]])
    expected = -0.7 * math.log(0.75) - 0.3 * math.log(0.25)
    loss = cross_entropy(logits, torch.tensor([[0.7, 0.3]]))
    torch.testing.assert_close(loss.item(), expected, rtol=1e-6, atol=0)


def test_the_class_of_a_mixed_target_is_its_likeliest() -> None:
    assert class_index(torch.tensor([[0.3, 0.7], [1.0, 0.0]])).tolist() == [1, 0]
    assert class_index(torch.tensor([1, 0])).tolist() == [1, 0]
    with pytest.raises(InputError, match="no targets: give class indices"):
        class_index(None)


def test_cross_entropy_keeps_the_precision_of_float64() -> None:
    # -ln softmax(1e-9, 0)_0 = ln 2 - 5e-10, which float32 cannot tell from ln 2.
    loss = cross_entropy(torch.tensor([[1e-9, 0.0]], dtype=torch.float64), torch.tensor([0]))
    torch.testing.assert_close(math.log(2) - loss.item(), 5e-10, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_distribution_may_have_another_precision_than_the_logits(dtype: torch.dtype) -> None:
    logits, mixed = torch.tensor([[math.log(3), 0.0]], dtype=dtype), torch.tensor([[0.75, 0.25]])
    found = cross_entropy(logits, mixed.double())
    torch.testing.assert_close(found, cross_entropy(logits, mixed.to(dtype)))


@pytest.mark.parametrize("loss", [losses.kd, losses.dkd, losses.cross_entropy])
@pytest.mark.parametrize("reduction", ["sum", None, 5])
def test_another_reduction_is_refused(loss: Any, reduction: Any) -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    logits, target = torch.zeros(2, 3), torch.tensor([0, 1])
    given = {"kd": (logits, logits, 4.0), "cross_entropy": (logits, target)}
    try:
        with pytest.raises(InputError, match="give mean or none"):
            loss(*given.get(loss.__name__, (logits, logits, target, 4.0)), reduction=reduction)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (-1.0, "-1"), (math.nan, "nan"), (1e-45, "1.4013e-45"), (1e38, "1e\\+38")],
)
def test_a_temperature_that_is_none_is_refused_by_row(value: float, said: str) -> None:
    logits, temperature = torch.zeros(3, 4), torch.tensor([2.0, value, 2.0])
    with pytest.raises(InputError, match=f"row 1 has the temperature {said}: give one from 1e-06"):
        losses.kd(logits, logits, temperature)
    with values_unchecked():
        losses.kd(logits, logits, temperature)


@pytest.mark.parametrize("loss", [losses.at, losses.nst, losses.sp])
def test_features_of_two_batches_are_refused(loss: Any) -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(InputError, match="of 5 instances and the teacher's of 4: give both"):
            loss(torch.rand(5, 3, 4, 4), torch.rand(4, 3, 4, 4))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_maps_of_two_precisions_are_compared_in_the_better() -> None:
    maps = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(
        losses.nst(maps, maps.float()), torch.zeros((), dtype=torch.float64), atol=1e-6, rtol=0
    )
