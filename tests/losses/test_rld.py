import math

import pytest
import torch
from tests.reference.softened_row import kl_slowly, softened_row
from torch import Tensor

from rlkd.config.compose import configure
from rlkd.engine import build
from rlkd.errors import UserError
from rlkd.losses.decoupled import dkd
from rlkd.losses.logits import kd
from rlkd.losses.rld import rld
from rlkd.types import Temperatures

# Class 0 is the target; the teachers are right, and wrong by one class.
TARGET = torch.tensor([0])
STUDENT = torch.tensor([[1 / 4, 1 / 2, 1 / 4]], dtype=torch.float64).log()
RIGHT = torch.tensor([[1 / 2, 1 / 4, 1 / 4]], dtype=torch.float64).log()
WRONG = torch.tensor([[3 / 8, 1 / 2, 1 / 8]], dtype=torch.float64).log()
# Either's likeliest class against the student's target: (1/2, 1/2) against (1/4, 3/4).
SCD = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
# Below the target: (1/2, 1/2) against (2/3, 1/3).
MCD = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)

# The target comes first, second, third, fourth, last, level with another, and level with all.
RANKED = torch.tensor(
    [
        [3.0, 1.0, -0.5, -2.0, 0.2],
        [1.1, 2.0, -1.0, 0.3, 0.9],
        [1.5, 0.4, 0.1, 0.8, -1.2],
        [1.7, -0.8, 0.6, 1.2, -1.9],
        [0.5, 0.1, 0.9, -0.7, 2.4],
        [0.3, 2.2, -0.6, 0.3, 1.0],
        [0.4, 0.4, 0.4, 0.4, 0.4],
    ],
    dtype=torch.float64,
)
RANKED_TARGET = [0, 0, 1, 1, 3, 0, 2]
HARD = torch.tensor(RANKED_TARGET)
ROWS = len(RANKED)


def rld_slowly(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: list[int],
    temperatures: Temperatures,
    alpha: float,
    beta: float,
) -> Tensor:
    """Return factor_i (alpha SCD_i + beta MCD_i) row by row, from probabilities."""
    rows: list[Tensor] = []
    for i, c in enumerate(target):
        student = softened_row(student_logits[i], temperatures.student[i])
        teacher = softened_row(teacher_logits[i], temperatures.teacher[i])
        ranked = teacher_logits[i].tolist()
        top = ranked.index(max(ranked))
        row = alpha * kl_slowly(
            torch.stack([student[c], 1 - student[c]]),
            torch.stack([teacher[top], 1 - teacher[top]]),
        )
        left = [j for j, logit in enumerate(ranked) if logit < ranked[c]]
        if len(left) > 1:
            row = row + beta * kl_slowly(
                student[left] / student[left].sum(), teacher[left] / teacher[left].sum()
            )
        rows.append(temperatures.factor[i] * row)
    return torch.stack(rows)


def gradient(loss: Tensor, wrt: Tensor) -> Tensor:
    return torch.autograd.grad(loss, wrt)[0]


@pytest.fixture
def student() -> Tensor:
    return torch.randn(ROWS, 5, dtype=torch.float64, requires_grad=True)


def all_different(*, weighted: bool) -> Temperatures:
    student = torch.tensor([0.5, 1.0, 2.0, 4.0, 9.9, 3.1, 1.4], dtype=torch.float64)
    teacher = torch.tensor([3.0, 0.7, 2.0, 6.0, 1.5, 2.5, 4.4], dtype=torch.float64)
    weight = torch.tensor([4.0, 1.0, 0.3, 2.0, 7.0, 1.2, 0.6], dtype=torch.float64)
    weight = weight.requires_grad_() if weighted else None
    return Temperatures(student.requires_grad_(), teacher.requires_grad_(), weight)


def test_a_right_teacher_by_hand() -> None:
    loss = rld(STUDENT, RIGHT, TARGET, 1.0, alpha=3.0, beta=5.0)
    torch.testing.assert_close(loss.item(), 3 * SCD + 5 * MCD, rtol=1e-9, atol=0)
    # Scaled by T, the logits soften to the same probabilities; the factor is T^2.
    loss = rld(3 * STUDENT, 3 * RIGHT, TARGET, 3.0)
    torch.testing.assert_close(loss.item(), 9 * (SCD + 8 * MCD), rtol=1e-9, atol=0)


def test_a_wrong_teacher_by_hand() -> None:
    # Of three classes only the last is below the target.
    loss = rld(STUDENT, WRONG, TARGET, 1.0, alpha=3.0, beta=5.0)
    torch.testing.assert_close(loss.item(), 3 * SCD, rtol=1e-9, atol=0)
    # Of four, two are: (1/8, 1/8) against (1/3, 1/6).
    student = torch.tensor([[1 / 4, 1 / 4, 1 / 3, 1 / 6]], dtype=torch.float64).log()
    teacher = torch.tensor([[1 / 4, 1 / 2, 1 / 8, 1 / 8]], dtype=torch.float64).log()
    loss = rld(student, teacher, TARGET, 1.0, alpha=3.0, beta=5.0)
    torch.testing.assert_close(loss.item(), 3 * SCD + 5 * MCD, rtol=1e-9, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (2.0, 0.0), (0.0, 3.0)])
def test_the_batch_equals_the_row_loop_in_value_and_every_gradient(
    student: Tensor, alpha: float, beta: float, weighted: bool
) -> None:
    temperatures = all_different(weighted=weighted)
    wanted = [student, temperatures.student, temperatures.teacher]
    if temperatures.weight is not None:
        wanted.append(temperatures.weight)
    slow = rld_slowly(student, RANKED, RANKED_TARGET, temperatures, alpha, beta)
    rows = rld(student, RANKED, HARD, temperatures, alpha=alpha, beta=beta, reduction="none")
    torch.testing.assert_close(rows, slow, rtol=1e-9, atol=1e-12)
    fast = rld(student, RANKED, HARD, temperatures, alpha=alpha, beta=beta)
    torch.testing.assert_close(fast, slow.mean(), rtol=1e-9, atol=1e-12)
    for found, expected in zip(
        torch.autograd.grad(fast, wanted), torch.autograd.grad(slow.mean(), wanted), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_finite_differences_agree_for_logits_and_temperatures(student: Tensor) -> None:
    given = all_different(weighted=True)
    assert given.weight is not None

    def loss(z: Tensor, t_student: Tensor, t_teacher: Tensor, weight: Tensor) -> Tensor:
        both = rld(z, RANKED, HARD, Temperatures(t_student, t_teacher, weight))
        return both + rld(z, RANKED, HARD, Temperatures(t_student, t_teacher))

    inputs = (student, given.student, given.teacher, given.weight)
    assert torch.autograd.gradcheck(loss, inputs, rtol=1e-4)


def test_equal_temperatures_equal_the_constant_form(student: Tensor) -> None:
    filled = torch.full((ROWS,), 4.0)
    constant = rld(student, RANKED, HARD, 4.0)
    for same in (filled, Temperatures.same(filled), Temperatures(filled, filled, 4 * filled)):
        loss = rld(student, RANKED, HARD, same)
        torch.testing.assert_close(loss, constant, rtol=1e-9, atol=0)
        expected = gradient(rld(student, RANKED, HARD, 4.0), student)
        torch.testing.assert_close(gradient(loss, student), expected, rtol=1e-9, atol=1e-12)


def test_a_row_does_not_feel_another_rows_temperature(student: Tensor) -> None:
    temperature = torch.arange(2.0, 2.0 + ROWS)
    before = rld(student, RANKED, HARD, temperature, reduction="none")
    temperature[0] = 20.0
    after = rld(student, RANKED, HARD, temperature, reduction="none")
    assert torch.equal(before[1:], after[1:])
    assert before[0] != after[0]


def test_where_the_teacher_is_right_it_is_dkd(student: Tensor) -> None:
    teacher = torch.randn(ROWS, 5, dtype=torch.float64)
    right = teacher.argmax(dim=1)
    temperatures = all_different(weighted=False)
    found = rld(student, teacher, right, temperatures, alpha=2.0, beta=3.0)
    expected = dkd(student, teacher, right, temperatures, alpha=2.0, beta=3.0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        gradient(found, student), gradient(expected, student), rtol=1e-9, atol=1e-12
    )


def test_the_student_of_a_wrong_teacher_is_pulled_to_the_target() -> None:
    # KD has nothing to say to a student that makes the teacher's mistake; DKD keeps the mistake.
    student = RANKED[1:2].clone().requires_grad_()
    pull = gradient(rld(student, RANKED[1:2], TARGET, 4.0), student)[0]
    assert gradient(kd(student, RANKED[1:2], 4.0), student).abs().max() < 1e-12
    assert gradient(dkd(student, RANKED[1:2], TARGET, 4.0), student).abs().max() < 1e-12
    assert pull[0] < 0
    assert (pull[1:] > 0).all()


def test_which_class_above_the_target_is_the_likeliest_does_not_matter(student: Tensor) -> None:
    swapped = RANKED[2:3, [3, 1, 2, 0, 4]]
    one, target = student[2:3], HARD[2:3]
    torch.testing.assert_close(
        rld(one, swapped, target, 4.0), rld(one, RANKED[2:3], target, 4.0), rtol=1e-9, atol=0
    )


def test_classes_at_or_above_the_target_have_no_part_in_the_correlation(student: Tensor) -> None:
    # Row 2: classes 0 and 3 are above the target 1, and 2 and 4 below.
    above_or_at = torch.tensor([[5.0, -3.0, 0.0, 9.0, 0.0]])
    raised = RANKED[2:3] + torch.tensor([[5.0, 0.2, 0.0, 9.0, 0.0]])
    one, target = student[2:3], HARD[2:3]
    loss = rld(one, RANKED[2:3], target, 4.0, alpha=0.0)
    moved = rld(one + above_or_at, raised, target, 4.0, alpha=0.0)
    torch.testing.assert_close(moved, loss, rtol=1e-9, atol=0)
    pull = gradient(loss, student)[2]
    assert pull[[0, 1, 3]].abs().max() < 1e-12
    assert pull[[2, 4]].abs().min() > 1e-3


def test_fewer_than_two_classes_below_the_target_have_no_correlation(student: Tensor) -> None:
    # Rows 3 to 6 keep one, none, one and none; the others keep two or more.
    temperatures = all_different(weighted=False)
    loss = rld(student, RANKED, HARD, temperatures, alpha=0.0, reduction="none")
    assert (loss > 0).tolist() == [True] * 3 + [False] * 4
    assert loss[3:].tolist() == [0, 0, 0, 0]
    wanted = (student, temperatures.student, temperatures.teacher)
    # No step on the way back may be NaN either, where a mask would hide it.
    with torch.autograd.set_detect_anomaly(mode=True):
        gradients = torch.autograd.grad(loss.sum(), wanted)
    for found in gradients:
        assert torch.isfinite(found).all()
        assert torch.equal(found[3:], torch.zeros_like(found[3:]))


def test_of_two_classes_a_right_teacher_gives_kd_and_a_wrong_one_its_confidence() -> None:
    student = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 2, dtype=torch.float64)
    right = teacher.argmax(dim=1)
    as_kd = kd(student, teacher, 4.0)
    torch.testing.assert_close(rld(student, teacher, right, 4.0), as_kd, rtol=1e-9, atol=0)
    wrong = rld(student, teacher, 1 - right, 4.0)
    mirrored = kd(student, teacher.flip(1), 4.0)
    torch.testing.assert_close(wrong, mirrored, rtol=1e-9, atol=0)
    assert torch.isfinite(gradient(wrong, student)).all()


def test_one_class_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"^RLD .* at least 2 classes$"):
        rld(torch.zeros(1, 1), torch.zeros(1, 1), TARGET, 4.0)


def test_of_a_mixed_target_the_likeliest_class_counts(student: Tensor) -> None:
    mixed = 0.6 * torch.nn.functional.one_hot(HARD, 5) + 0.4 * torch.eye(5)[(HARD + 1) % 5]
    hard = rld(student, RANKED, HARD, 4.0)
    assert torch.equal(rld(student, RANKED, mixed, 4.0), hard)
    assert rld(student, RANKED, (HARD + 1) % 5, 4.0) != hard


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher = torch.randn(ROWS, 5).bfloat16(), torch.randn(ROWS, 5).bfloat16()
    found = rld(student, teacher, HARD, 4.0)
    assert found.dtype is torch.float32
    assert torch.equal(found, rld(student.float(), teacher.float(), HARD, 4.0))


@pytest.mark.parametrize("size", [1e4, 30.0, 0.0])
def test_large_logits_at_a_small_temperature_keep_value_and_gradients_finite(size: float) -> None:
    signs = RANKED.float().sign() * torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    student = (-size * signs).requires_grad_()
    temperature = torch.full((ROWS,), 0.05, requires_grad=True)
    loss = rld(student, size * signs, HARD, temperature)
    assert torch.isfinite(loss)
    for found in torch.autograd.grad(loss, (student, temperature)):
        assert torch.isfinite(found).all()


def test_certain_networks_still_have_their_doubt_and_their_order_of_the_rest() -> None:
    # The rest has e^-20, which is 0 in float32 if it is subtracted from 1.
    student = torch.tensor([[20.0, 0.3, -0.2, 0.1]], requires_grad=True)
    teacher = torch.tensor([[25.0, -0.5, 0.6, 0.2]])
    found = rld(student, teacher, TARGET, 1.0)
    exact = rld(student.double(), teacher.double(), TARGET, 1.0)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        gradient(found, student), gradient(exact, student), rtol=1e-5, atol=1e-6
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(ROWS, 1), (1,), ()])
def test_a_temperature_that_would_broadcast_is_refused(
    student: Tensor, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=rf"give one temperature a row, shape \({ROWS},\)"):
        rld(student, RANKED, HARD, torch.full(shape, 4.0))


def test_the_packaged_method_has_the_published_settings() -> None:
    config = configure(["method=rld", "temperature=constant", "trainer.epochs=240"])
    terms = build.objective(config).terms
    assert {name: each.weight for name, each in terms.items()} == {"cross_entropy": 1, "rld": 1}
    assert terms["rld"].warmup_epochs == 20
    assert config.temperature.temperature == 4
    loss = terms["rld"].loss(
        student_logits=STUDENT, teacher_logits=RIGHT, target=TARGET, temperature=1.0
    )
    torch.testing.assert_close(loss.item(), SCD + 8 * MCD, rtol=1e-9, atol=0)
