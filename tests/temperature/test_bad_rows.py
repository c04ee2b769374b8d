"""What every source makes of rows whose logits are not finite: their base temperature, no more."""

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rlkd
from rlkd import checks, losses, temperature
from rlkd.errors import Notice
from rlkd.temperature import TemperatureSource
from rlkd.types import Temperatures

ROWS, CLASSES, BAD = 8, 5, [1, 4, 6]
AT_ONE = math.nan
"""Stands for the temperature of a source that gives every row the same."""
SOURCES: dict[str, tuple[Callable[[], TemperatureSource], float]] = {
    "ConstantTemperature": (temperature.ConstantTemperature, AT_ONE),
    "ScheduledTemperature": (lambda: temperature.ScheduledTemperature(epochs=3), AT_ONE),
    "RecordedMean": (temperature.RecordedMean, AT_ONE),
    "GlobalCTKD": (temperature.GlobalCTKD, AT_ONE),
    "GreedyLookAhead": (lambda: temperature.GreedyLookAhead().eval(), 4.0),
    "RandomTemperature": (rlkd.RandomTemperature, AT_ONE),
    # 1 + 20 sigmoid(1)
    "InstanceCTKD": (lambda: temperature.InstanceCTKD(num_classes=CLASSES), 15.621172),
    "ConfidenceTemperature": (temperature.ConfidenceTemperature, 5.5),
    "EntropyTemperature": (temperature.EntropyTemperature, 5.5),
    "AdaKD": (temperature.AdaKD, 4.0),
    "LogitStandardisation": (temperature.LogitStandardisation, 2.0),
    "NormKD": (temperature.NormKD, 2.0),
    "DTKD": (temperature.DTKD, 4.0),
    "MaxLogitTemperature": (temperature.MaxLogitTemperature, 4.0),
    "TemperatureAgent": (lambda: rlkd.TemperatureAgent(base_temperature=3.0), 3.0),
}
ABSURD = {
    "NaN": math.nan,
    "infinity": math.inf,
    "an absurd number": 1e30,
    "half precision's greatest": 65504.0,
}
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def good() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, ROWS, CLASSES, generator=generator).unbind()
    return student, 3 * teacher, torch.arange(ROWS) % CLASSES


def spoilt(logits: Tensor, rows: list[int], value: float) -> Tensor:
    logits = logits.clone()
    logits[rows, 2] = value
    return logits


def all_of(chosen: Temperatures) -> list[Tensor]:
    return [chosen.student, chosen.teacher, chosen.factor, chosen.at_one.student]


def test_the_table_has_every_source() -> None:
    sources = {
        name
        for room in (temperature, rlkd)
        for name in dir(room)
        if inspect.isclass(each := getattr(room, name)) and issubclass(each, TemperatureSource)
    }
    assert sources - {"TemperatureSource", "EpochSource", "LogitDriven"} == SOURCES.keys()


@pytest.mark.filterwarnings("ignore::rlkd.errors.Notice")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", SOURCES)
def test_a_bad_row_gets_the_base_temperature_and_changes_no_other(
    name: str, dtype: torch.dtype
) -> None:
    make, base = SOURCES[name]
    student, teacher, target = (
        each.to(dtype) if each.is_floating_point() else each for each in good()
    )
    if name == "AdaKD":  # rows that agree have no part in its median, nor have bad ones
        teacher[BAD] = student[BAD]
    clean = make()(student, teacher, target)
    rest = [each for each in range(ROWS) if each not in BAD]
    for student_value, teacher_value in [(math.nan, math.inf), (math.inf, math.nan)]:
        seen = spoilt(student, BAD[:2], student_value), spoilt(teacher, BAD[1:], teacher_value)
        chosen = make()(*seen, target)
        for found, expected in zip(all_of(chosen), all_of(clean), strict=True):
            assert torch.equal(found[rest], expected[rest])
        wanted = torch.full((len(BAD),), base).to(chosen.student)
        expected = clean.student[BAD] if math.isnan(base) else wanted
        torch.testing.assert_close(chosen.student[BAD], expected)
        torch.testing.assert_close(chosen.teacher[BAD], expected)


@pytest.mark.filterwarnings("ignore::rlkd.errors.Notice")
@pytest.mark.parametrize("value", ABSURD.values(), ids=ABSURD)
@pytest.mark.parametrize("name", SOURCES)
def test_no_logit_gives_a_temperature_or_a_gradient_that_is_not_finite(
    name: str, value: float
) -> None:
    for sign, both in [(1, True), (1, False), (-1, True), (-1, False)]:
        student, teacher, target = good()
        raw = spoilt(student, [0, 3], sign * value).requires_grad_()
        source = SOURCES[name][0]()
        chosen = source(raw, spoilt(teacher, [0], value) if both else teacher, target)
        for each in all_of(chosen):
            assert each.isfinite().all()
            assert (each > 0).all()
        if chosen.student.requires_grad:
            wanted = [raw, *source.trained_parameters()]
            total = chosen.student.sum() + chosen.teacher.sum()
            for each in torch.autograd.grad(
                total, wanted, allow_unused=True, materialize_grads=True
            ):
                assert each.isfinite().all()


@pytest.mark.filterwarnings("ignore::rlkd.errors.Notice")
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("name", ["GlobalCTKD", "InstanceCTKD"])
def test_what_a_curriculum_learns_is_what_it_learns_without_the_bad_rows(
    name: str, value: float
) -> None:
    def learnt(student: Tensor, teacher: Tensor, counted: Tensor) -> TemperatureSource:
        torch.manual_seed(0)
        source = SOURCES[name][0]()
        source.start_epoch(3)
        optimizer = torch.optim.SGD(source.trained_parameters(), lr=0.05)
        for _ in range(3):
            chosen = source(student, teacher, target).student
            # As a loss sees a row that is not finite: its own value is not, and so is its slope.
            row = losses.log_softened(student, chosen).sum(dim=1)
            (row * counted).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return source

    student, teacher, target = good()
    ones = torch.ones(ROWS)
    with checks.values_unchecked():
        found = learnt(spoilt(student, [2], value), spoilt(teacher, [2], value), ones)
        left_out = learnt(student, teacher, ones.index_fill(0, torch.tensor([2]), 0.0))
    for one, other in zip(found.parameters(), left_out.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["GlobalCTKD", "InstanceCTKD"])
def test_the_gradient_of_a_curriculum_is_linear_in_the_loss(name: str) -> None:
    student, teacher, target = good()

    def slope(scale: float) -> Tensor:
        torch.manual_seed(0)
        source = SOURCES[name][0]()
        source.start_epoch(3)
        loss = losses.kd(student, teacher, source(student, teacher, target)) * scale
        last = list(source.trained_parameters())[-1]
        return torch.autograd.grad(loss, last)[0] / scale

    # Mixed precision scales the loss, by 65536 at first.
    torch.testing.assert_close(slope(2.0**24), slope(1.0))


def test_a_bad_row_is_reported_where_values_are_checked() -> None:
    student, teacher, target = good()
    bad = spoilt(teacher, [3], math.nan)
    with pytest.warns(Notice, match="a row of the logits is not finite: it gets the base"):
        temperature.NormKD()(student, bad, target)
    with checks.values_unchecked():
        temperature.NormKD()(student, bad, target)  # pytest raises what it does not expect


@pytest.mark.filterwarnings("error::rlkd.errors.Notice")
@pytest.mark.parametrize("name", SOURCES)
def test_masked_classes_are_no_bad_rows(name: str) -> None:
    student, teacher, target = good()
    seen = [each.index_fill(1, torch.tensor([4]), -math.inf) for each in (student, teacher)]
    SOURCES[name][0]()(*seen, target % 4)
    finite = [each.index_fill(1, torch.tensor([4]), -1e30) for each in (student, teacher)]
    one, other = (all_of(SOURCES[name][0]()(*each, target % 4)) for each in (seen, finite))
    for found, expected in zip(one, other, strict=True):
        torch.testing.assert_close(found, expected)
