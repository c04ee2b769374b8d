"""What holds for every loss on logits, whatever its formula."""

from collections.abc import Callable

import pytest
import torch
from tests.reference.decoupled_rows import dkd_slowly, nkd_slowly
from tests.reference.relation_loops import dist_slowly, mlkd_slowly
from tests.reference.softened_row import kl_slowly, softened_row
from tests.reference.transformed_rows import ttm_slowly, wttm_slowly
from torch import Tensor

from rlkd.losses.decoupled import dkd
from rlkd.losses.dist import dist
from rlkd.losses.logits import kd
from rlkd.losses.multilevel import batch_correlation, class_correlation, mlkd
from rlkd.losses.nkd import nkd
from rlkd.losses.rld import rld
from rlkd.losses.softened import Temperature
from rlkd.losses.standardise import standardise
from rlkd.losses.ttm import ttm, wttm
from rlkd.temperature import LogitStandardisation
from rlkd.types import Temperatures

TARGET = [0, 3, 2, 2, 1]
HARD = torch.tensor(TARGET)
Loss = Callable[[Tensor, Tensor, Temperature], Tensor]

LOSSES: dict[str, Loss] = {
    "kd": kd,
    "dkd": lambda student, teacher, t: dkd(student, teacher, HARD, t),
    "nkd": lambda student, teacher, t: nkd(student, teacher, HARD, t),
    "ttm": ttm,
    "wttm": wttm,
    "dist": dist,
    "mlkd": mlkd,
    "mlkd_strong": lambda student, teacher, t: mlkd(
        student, teacher, t, student.flip(0), teacher.flip(0)
    ),
    "batch_correlation": batch_correlation,
    "class_correlation": class_correlation,
}
PER_INSTANCE: dict[str, Loss] = {
    "kd": lambda student, teacher, t: kd(student, teacher, t, reduction="none"),
    "dkd": lambda student, teacher, t: dkd(student, teacher, HARD, t, reduction="none"),
    "nkd": lambda student, teacher, t: nkd(student, teacher, HARD, t, reduction="none"),
    "ttm": lambda student, teacher, t: ttm(student, teacher, t, reduction="none"),
    "wttm": lambda student, teacher, t: wttm(student, teacher, t, reduction="none"),
}


def kd_with_two_temperatures(
    student_logits: Tensor, teacher_logits: Tensor, temperatures: Temperatures
) -> Tensor:
    rows = [
        temperatures.factor[i]
        * kl_slowly(
            softened_row(student_logits[i], temperatures.student[i]),
            softened_row(teacher_logits[i], temperatures.teacher[i]),
        )
        for i in range(len(student_logits))
    ]
    return torch.stack(rows)


TWINS: dict[str, Callable[[Tensor, Tensor, Temperatures], Tensor]] = {
    "kd": kd_with_two_temperatures,
    "dkd": lambda student, teacher, t: dkd_slowly(student, teacher, TARGET, t),
    "nkd": lambda student, teacher, t: nkd_slowly(student, teacher, TARGET, t),
    "ttm": ttm_slowly,
    "wttm": wttm_slowly,
    "dist": dist_slowly,
    "mlkd": mlkd_slowly,
}


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    """Student and teacher, in float64; the student's wants its gradient."""
    student = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    return student, 2 * torch.randn(5, 4, dtype=torch.float64)


def all_different(*, weighted: bool) -> Temperatures:
    """Temperatures of their own for either network and every row, wanting their gradient."""
    student = torch.tensor([0.5, 1.0, 2.0, 4.0, 9.9], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([3.0, 0.7, 2.0, 6.0, 1.5], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([4.0, 1.0, 0.3, 2.0, 7.0], dtype=torch.float64, requires_grad=True)
    return Temperatures(student, teacher, weight if weighted else None)


def gradients(loss: Tensor, student: Tensor, temperatures: Temperatures) -> list[Tensor]:
    wanted = [student, temperatures.student, temperatures.teacher]
    if temperatures.weight is not None:
        wanted.append(temperatures.weight)
    return list(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", TWINS)
def test_the_batch_equals_the_row_loop_in_value_and_every_gradient(
    logits: tuple[Tensor, Tensor], name: str, weighted: bool
) -> None:
    student, teacher = logits
    temperatures = all_different(weighted=weighted)
    fast = LOSSES[name](student, teacher, temperatures)
    slow = TWINS[name](student, teacher, temperatures)
    torch.testing.assert_close(fast, slow.mean(), rtol=1e-9, atol=1e-12)
    for found, expected in zip(
        gradients(fast, student, temperatures),
        gradients(slow.mean(), student, temperatures),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", PER_INSTANCE)
def test_unreduced_values_are_those_of_the_row_loop(
    logits: tuple[Tensor, Tensor], name: str
) -> None:
    student, teacher = logits
    temperatures = all_different(weighted=False)
    rows = PER_INSTANCE[name](student, teacher, temperatures)
    torch.testing.assert_close(
        rows, TWINS[name](student, teacher, temperatures), rtol=1e-9, atol=1e-12
    )
    assert torch.equal(rows.mean(), LOSSES[name](student, teacher, temperatures))


@pytest.mark.parametrize("name", LOSSES)
def test_equal_temperatures_equal_the_constant_form(
    logits: tuple[Tensor, Tensor], name: str
) -> None:
    student, teacher = logits
    filled = torch.full((5,), 4.0)
    constant = LOSSES[name](student, teacher, 4.0)
    (expected,) = torch.autograd.grad(constant, student)
    for same in (filled, Temperatures.same(filled), Temperatures(filled, filled, 4 * filled)):
        loss = LOSSES[name](student, teacher, same)
        torch.testing.assert_close(loss, constant, rtol=1e-6, atol=0)
        (found,) = torch.autograd.grad(loss, student)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"mlkd_strong"} | {"rld"}))
def test_the_source_that_standardises_is_the_loss_on_standardised_logits(
    logits: tuple[Tensor, Tensor], name: str
) -> None:
    loss = LOSSES.get(name, lambda student, teacher, t: rld(student, teacher, HARD, t))
    student, teacher = logits
    source = LogitStandardisation(base_temperature=2.0)
    as_source = loss(student, teacher, source(student, teacher, HARD))
    transformed = loss(standardise(student), standardise(teacher), 2.0)
    torch.testing.assert_close(as_source, transformed, rtol=1e-9, atol=1e-12)
    (found,), (expected,) = (
        torch.autograd.grad(each, student) for each in (as_source, transformed)
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_finite_differences_agree_for_logits_and_temperatures(
    logits: tuple[Tensor, Tensor], name: str
) -> None:
    student, teacher = logits
    given = all_different(weighted=True)

    def loss(z: Tensor, t_student: Tensor, t_teacher: Tensor, weight: Tensor) -> Tensor:
        both = LOSSES[name](z, teacher, Temperatures(t_student, t_teacher, weight))
        return both + LOSSES[name](z, teacher, Temperatures(t_student, t_teacher))

    # The fast mode compares along one random direction: the row loop compares every entry.
    inputs = (student, given.student, given.teacher, given.weight)
    assert torch.autograd.gradcheck(loss, inputs, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("name", PER_INSTANCE)
def test_a_row_does_not_feel_another_rows_temperature(
    logits: tuple[Tensor, Tensor], name: str
) -> None:
    student, teacher = logits
    before = PER_INSTANCE[name](student, teacher, torch.tensor([2.0, 3.0, 4.0, 5.0, 6.0]))
    after = PER_INSTANCE[name](student, teacher, torch.tensor([9.0, 3.0, 4.0, 5.0, 6.0]))
    assert torch.equal(before[1:], after[1:])
    assert before[0] != after[0]


@pytest.mark.parametrize("size", [1e4, 30.0, 0.0])
@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_at_a_small_temperature_keep_value_and_gradients_finite(
    name: str, size: float
) -> None:
    signs = torch.tensor([[1, -1, 0, 0], [-1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, -1], [0, -1, 1, 0]])
    student = (size * signs.float()).requires_grad_()
    teacher = -size * signs.float()
    temperature = torch.full((5,), 0.05, requires_grad=True)
    loss = LOSSES[name](student, teacher, temperature)
    assert torch.isfinite(loss)
    for found in torch.autograd.grad(loss, (student, temperature)):
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_compared_in_float32(name: str) -> None:
    student, teacher = torch.randn(5, 4).bfloat16(), torch.randn(5, 4).bfloat16()
    found = LOSSES[name](student, teacher, 4.0)
    expected = LOSSES[name](student.float(), teacher.float(), 4.0)
    assert found.dtype is torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"nkd"}))
def test_equal_networks_lose_nothing(name: str) -> None:
    same = torch.randn(5, 4, dtype=torch.float64)
    # TTM softens the teacher only: there the two agree at temperature 1.
    assert LOSSES[name](same, same, 1.0).abs() < 1e-12


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(5, 1), (1,), ()])
@pytest.mark.parametrize("name", LOSSES)
def test_a_temperature_that_would_broadcast_is_refused(
    logits: tuple[Tensor, Tensor], name: str, shape: tuple[int, ...]
) -> None:
    student, teacher = logits
    with pytest.raises(ValueError, match=r"give one temperature a row, shape \(5,\)"):
        LOSSES[name](student, teacher, torch.full(shape, 4.0))
