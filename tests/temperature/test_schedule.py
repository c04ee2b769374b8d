import math

import pytest
import torch

from rlkd.errors import UserError
from rlkd.temperature import ScheduledTemperature

LOGITS = torch.zeros(3, 5)
TARGET = torch.zeros(3, dtype=torch.long)


def temperatures(source: ScheduledTemperature, epochs: int) -> list[float]:
    given: list[float] = []
    for epoch in range(1, epochs + 1):
        source.start_epoch(epoch)
        first, *others = source(LOGITS, LOGITS, TARGET).student.tolist()
        assert others == [first, first]
        given.append(first)
    return given


def test_linear_goes_in_equal_steps_from_start_to_end_and_stays_there() -> None:
    source = ScheduledTemperature(epochs=5, start=8.0, end=2.0)
    assert temperatures(source, 7) == [8.0, 6.5, 5.0, 3.5, 2.0, 2.0, 2.0]


def test_cosine_by_hand() -> None:
    # (1 - cos(pi x)) / 2 at x = 0, 1/4, 1/2, 3/4, 1 is 0, 0.14645, 0.5, 0.85355, 1.
    source = ScheduledTemperature(epochs=5, start=8.0, end=2.0, shape="cosine")
    expected = [8.0, 8 - 6 * 0.1464466, 5.0, 8 - 6 * 0.8535534, 2.0]
    assert temperatures(source, 5) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_default_averages_to_4(shape: str) -> None:
    source = ScheduledTemperature(epochs=24, shape=shape)  # pyright: ignore[reportArgumentType]
    given = temperatures(source, 24)
    assert sum(given) / 24 == pytest.approx(4.0)
    assert given == sorted(given, reverse=True)


def test_a_schedule_may_rise() -> None:
    assert temperatures(ScheduledTemperature(epochs=2, start=1.0, end=4.0), 2) == [1.0, 4.0]


def test_a_run_of_one_epoch_keeps_the_start() -> None:
    assert temperatures(ScheduledTemperature(epochs=1, start=3.0, end=1.0), 1) == [3.0]


def test_student_and_teacher_have_the_same() -> None:
    given = ScheduledTemperature(epochs=3)(LOGITS, LOGITS, TARGET)
    assert torch.equal(given.student, given.teacher)
    assert given.weight is None


def test_a_resumed_schedule_knows_its_epoch() -> None:
    source = ScheduledTemperature(epochs=5, start=8.0, end=2.0)
    source.start_epoch(3)
    resumed = ScheduledTemperature(epochs=5, start=8.0, end=2.0)
    resumed.load_state_dict(source.state_dict())
    assert resumed(LOGITS, LOGITS, TARGET).student.tolist() == [5.0] * 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": 0}, r"temperature\.epochs=0: give a whole number of at least 1"),
        ({"epochs": 5, "start": 0.0}, r"temperature\.start=0\.0: give a number from 0\.05 to 1e"),
        ({"epochs": 5, "end": math.nan}, r"temperature\.end=nan: give a number from 0\.05 to 1e"),
        ({"epochs": 5, "shape": "step"}, r"temperature\.shape=step: give linear or cosine"),
    ],
)
def test_an_impossible_schedule_is_refused(options: dict[str, float], told: str) -> None:
    with pytest.raises(UserError, match=told):
        ScheduledTemperature(**options)  # pyright: ignore[reportArgumentType]
