import math

import pytest
import torch
from torch import Tensor

from rlkd.errors import UserError
from rlkd.losses import kd
from rlkd.temperature import (
    DTKD,
    TEMPERATURE_FLOOR,
    AdaKD,
    ConfidenceTemperature,
    EntropyTemperature,
    LogitDriven,
    LogitStandardisation,
    MaxLogitTemperature,
    NormKD,
)
from rlkd.types import Temperatures

Logits = tuple[Tensor, Tensor, Tensor]

BY_ROW = [
    ConfidenceTemperature,
    DTKD,
    EntropyTemperature,
    LogitStandardisation,
    MaxLogitTemperature,
    NormKD,
]
ALL = [*BY_ROW, AdaKD]
"""AdaKD compares a row with the batch's median, and passes no gradient on."""
EVERY = pytest.mark.parametrize("source", [each() for each in ALL], ids=lambda s: type(s).__name__)
EVERY_ROW_BY_ITSELF = pytest.mark.parametrize(
    "source", [each() for each in BY_ROW], ids=lambda s: type(s).__name__
)

STUDENT = torch.tensor([[3.0, 0.0, -3.0]])
TEACHER = torch.tensor([[6.0, -3.0, -3.0]])
TARGET = torch.tensor([0])


def given(source: LogitDriven, student: Tensor, teacher: Tensor) -> list[float]:
    """Return the one row's temperatures, student's first, and its factor."""
    found = source(student, teacher, TARGET)
    return [found.student.item(), found.teacher.item(), found.factor.item()]


def test_standardisation_by_hand() -> None:
    # Deviations of a sample: sqrt((9 + 0 + 9) / 2) = 3 and sqrt((36 + 9 + 9) / 2) = sqrt 27.
    found = given(LogitStandardisation(), STUDENT, TEACHER)
    assert found == pytest.approx([6.0, 2 * math.sqrt(27), 4.0], rel=1e-6)


def test_standardised_kd_equals_the_golden_value_and_gradient(golden: dict[str, Tensor]) -> None:
    student = golden["in/student_logits"].clone().requires_grad_()
    teacher = golden["in/teacher_logits"]
    source = LogitStandardisation(base_temperature=2.0)
    target = torch.zeros(len(student), dtype=torch.long)
    loss = kd(student, teacher, source(student, teacher, target))
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(loss, golden["loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, golden["grad/student_logits"], rtol=1e-6, atol=1e-12)


def test_standardised_kd_equals_kd_of_standardised_logits(logits: Logits) -> None:
    student, teacher, _ = logits
    loss = kd(student, teacher, LogitStandardisation(base_temperature=3.0)(*logits))
    z_s, z_t = (
        (z - z.mean(dim=1, keepdim=True)) / (z.std(dim=1, keepdim=True) + 1e-7)
        for z in (student, teacher)
    )
    expected = kd(z_s, z_t, 3.0)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad(loss, student, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-15)
    # The scale of a standardised student is free: no gradient along its own (centred) logits.
    centred = student - student.mean(dim=1, keepdim=True)
    assert (found * centred).sum(dim=1).abs().max() < 1e-7


def test_normkd_by_hand() -> None:
    found = given(NormKD(), STUDENT, TEACHER)
    assert found == pytest.approx([6.0, 2 * math.sqrt(27), 4 * 27], rel=1e-6)


def test_normkd_differs_from_standardisation_by_its_weight_alone(logits: Logits) -> None:
    norm, standard = NormKD()(*logits), LogitStandardisation()(*logits)
    torch.testing.assert_close(norm.student, standard.student, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm.teacher, standard.teacher, rtol=1e-6, atol=0)
    assert norm.weight is not None
    torch.testing.assert_close(norm.weight, norm.teacher.square())


def test_dtkd_by_hand() -> None:
    # m = 3 and 6: of 2 * 4 the student gets a third, the teacher two.
    found = given(DTKD(), STUDENT, TEACHER)
    assert found == pytest.approx([8 / 3, 16 / 3, 128 / 9], rel=1e-6)


def test_dtkd_of_equally_sharp_networks_is_the_base_temperature(logits: Logits) -> None:
    student, _, target = logits
    found = DTKD(base_temperature=3.0)(student, student.flip(1).detach(), target)
    torch.testing.assert_close(found.student, torch.full((6,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("student_shift", "teacher_shift"),
    # Raw maxima of 0, below 0, and ones that cancel: the published formula divides by 0 or less.
    [(-3.0, 0.0), (0.0, -6.0), (-10.0, -10.0), (0.0, -9.0), (100.0, -100.0)],
)
def test_dtkd_and_max_logit_stand_maxima_that_are_not_positive(
    student_shift: float, teacher_shift: float
) -> None:
    for source in (DTKD(), MaxLogitTemperature()):
        shifted = given(source, STUDENT + student_shift, TEACHER + teacher_shift)
        assert shifted == pytest.approx(given(source, STUDENT, TEACHER), rel=1e-4)


def test_adakd_by_hand() -> None:
    # Two classes: p = (1/2, 1/2) beside q = (0.9, 0.1), (0.8, 0.2) and (0.5, 0.5). A row where
    # both agree has no part in the median, and the farthest below it the highest temperature.
    teacher = torch.zeros(4, 2)
    student = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5], [0.3, 0.7]]).log()
    distance = [
        math.sqrt(
            (math.sqrt(q) - math.sqrt(0.5)) ** 2 / 2 + (math.sqrt(1 - q) - math.sqrt(0.5)) ** 2 / 2
        )
        for q in (0.9, 0.8, 0.3)
    ]
    median = distance[1]  # of three: 0.9 is farther, 0.3 nearer
    expected = [3 * math.exp(-0.7 * math.tanh(math.log(each / median))) for each in distance]
    found = AdaKD(base_temperature=3.0, strength=0.7)(student, teacher, torch.zeros(4).long())
    assert found.student[[0, 1, 3]].tolist() == pytest.approx(expected, rel=1e-5)
    assert found.student[2].item() == pytest.approx(3 * math.exp(0.7), rel=1e-5)
    assert torch.equal(found.student, found.teacher)


def test_adakd_is_the_base_temperature_at_strength_0_and_where_networks_agree(
    logits: Logits,
) -> None:
    student, _, target = logits
    base = torch.full((6,), 4.0, dtype=torch.float64)
    torch.testing.assert_close(AdaKD(strength=0.0)(*logits).student, base)
    torch.testing.assert_close(AdaKD()(student, student.detach(), target).student, base)
    found = AdaKD(strength=0.5)(*logits).student
    assert not found.requires_grad
    assert found.amin() >= 4 * math.exp(-0.5)
    assert found.amax() <= 4 * math.exp(0.5)


def test_max_logit_by_hand() -> None:
    found = given(MaxLogitTemperature(ratio=1.5), STUDENT, TEACHER)
    assert found == pytest.approx([2.0, 4.0, 8.0], rel=1e-6)


@pytest.mark.parametrize(
    ("confidence", "temperature"),
    # 1 + 9 (1 - cos(pi p)) / 2: cos of 0, 60, 90 and 120 degrees is 1, 1/2, 0, -1/2.
    [(1e-12, 1.0), (1 / 3, 3.25), (1 / 2, 5.5), (2 / 3, 7.75), (1 - 1e-7, 10.0)],
)
def test_confidence_by_hand(confidence: float, temperature: float) -> None:
    teacher = torch.tensor([[0.0, math.log((1 - confidence) / confidence)]])
    for target in (torch.tensor([0]), torch.tensor([[0.7, 0.3]])):
        found = ConfidenceTemperature()(torch.zeros(1, 2), teacher, target)
        assert found.student.item() == pytest.approx(temperature, rel=1e-5)
        assert found.teacher.item() == pytest.approx(temperature, rel=1e-5)
    other = ConfidenceTemperature()(torch.zeros(1, 2), teacher, torch.tensor([1]))
    assert other.student.item() == pytest.approx(11 - temperature, rel=1e-5)


def test_entropy_by_hand() -> None:
    # Uniform over 4: H = 1. Certain: H = 0. Uniform over 2 of 4: H = ln 2 / ln 4 = 1/2.
    teacher = torch.tensor([[0.0, 0, 0, 0], [200, 0, 0, 0], [0, 0, -200, -200]])
    source = EntropyTemperature(lowest=2.0, highest=6.0)
    found = source(torch.zeros(3, 4), teacher, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(found.student, torch.tensor([2.0, 6.0, 4.0]))
    torch.testing.assert_close(found.teacher, found.student)


@EVERY
@pytest.mark.parametrize(
    "pattern",
    [[0.0, 0.0, 0.0], [-5.0, -5.0, -5.0], [-1.0, -2.0, -3.0], [1e4, -1e4, 0.0], [1e-8, 0.0, 0.0]],
    ids=str,
)
def test_odd_logits_give_finite_losses_and_gradients(
    source: LogitDriven, pattern: list[float]
) -> None:
    odd, plain = torch.tensor([pattern]), torch.tensor([[2.0, 1.0, -3.0]])
    for student, teacher in ((odd, plain), (plain, odd), (odd, odd)):
        student = student.clone().requires_grad_()
        temperatures = source(student, teacher, TARGET)
        loss = kd(student, teacher, temperatures)
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert (temperatures.student >= TEMPERATURE_FLOOR).all()
        assert (temperatures.teacher >= TEMPERATURE_FLOOR).all()


@EVERY_ROW_BY_ITSELF
def test_the_gradient_equals_finite_differences(source: LogitDriven, logits: Logits) -> None:
    student, teacher, target = logits

    def loss(z: Tensor) -> Tensor:
        return kd(z, teacher, source(z, teacher, target))

    assert torch.autograd.gradcheck(loss, (student,), rtol=1e-4)


@EVERY_ROW_BY_ITSELF
def test_a_row_does_not_feel_another_row(source: LogitDriven, logits: Logits) -> None:
    student, teacher, target = (each.detach() for each in logits)
    whole = source(student, teacher, target)
    for row in range(len(student)):
        alone = source(*(each[row : row + 1] for each in (student, teacher, target)))
        torch.testing.assert_close(alone.student, whole.student[row : row + 1])
        torch.testing.assert_close(alone.teacher, whole.teacher[row : row + 1])
        torch.testing.assert_close(alone.factor, whole.factor[row : row + 1])


@EVERY
def test_half_precision_is_worked_out_in_float32(source: LogitDriven) -> None:
    student, teacher = torch.randn(4, 5).bfloat16(), torch.randn(4, 5).bfloat16()
    found: Temperatures = source(student, teacher, torch.tensor([0, 1, 2, 3]))
    exact = source(student.float(), teacher.float(), torch.tensor([0, 1, 2, 3]))
    assert found.student.dtype is found.teacher.dtype is torch.float32
    assert torch.equal(found.student, exact.student)


@EVERY
def test_nothing_is_learnt_or_kept(source: LogitDriven) -> None:
    assert list(source.trained_parameters()) == []
    assert source.state_dict() == {}


@pytest.mark.parametrize("make", [DTKD, LogitStandardisation, NormKD])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_base_is_refused(make: type, value: float) -> None:
    with pytest.raises(
        UserError, match=rf"temperature\.base_temperature={value}: give a number above 0"
    ):
        make(base_temperature=value)


def test_an_impossible_ratio_is_refused() -> None:
    with pytest.raises(UserError, match=r"temperature\.ratio=0\.0: give a number above 0"):
        MaxLogitTemperature(ratio=0.0)


@pytest.mark.parametrize("make", [ConfidenceTemperature, EntropyTemperature])
@pytest.mark.parametrize(("lowest", "highest"), [(0.0, 4.0), (4.0, 4.0), (1.0, math.inf)])
def test_an_impossible_range_is_refused(make: type, lowest: float, highest: float) -> None:
    with pytest.raises(
        UserError, match=r"temperature\.(lowest=0\.0|highest=(4\.0|inf)): give a number "
    ):
        make(lowest=lowest, highest=highest)


def test_a_formula_must_be_given() -> None:
    with pytest.raises(NotImplementedError, match="LogitDriven must define formula"):
        LogitDriven()(STUDENT, TEACHER, TARGET)


@EVERY
def test_logits_of_one_class_are_refused(source: LogitDriven) -> None:
    logits = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="logits of 1 class have no spread: give at least 2"):
        source(logits, logits, TARGET)


def test_a_teacher_of_one_class_that_is_not_masked_is_certain() -> None:
    student, teacher = torch.zeros(1, 3), torch.tensor([[-torch.inf, 2.0, -torch.inf]])
    given = EntropyTemperature(lowest=1.0, highest=10.0)(student, teacher, torch.tensor([1]))
    assert given.student.tolist() == [10.0]


def test_no_formula_gives_a_temperature_whose_square_overflows() -> None:
    logits = torch.tensor([[1e12, 0.0]])
    given = MaxLogitTemperature(ratio=1e-6)(logits, logits, torch.tensor([0]))
    assert given.student.tolist() == [1e6]
