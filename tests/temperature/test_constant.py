import math

import pytest
import torch

from rlkd.errors import UserError
from rlkd.temperature import ConstantTemperature, TemperatureSource
from rlkd.types import Temperatures

LOGITS = torch.zeros(3, 5)
TARGET = torch.zeros(3, dtype=torch.long)


def test_the_constant_fills_a_vector_for_both_networks() -> None:
    given = ConstantTemperature(2.5)(LOGITS, LOGITS, TARGET)
    assert given.student.tolist() == [2.5, 2.5, 2.5]
    assert given.teacher.tolist() == [2.5, 2.5, 2.5]


def test_the_constant_is_4_unless_told() -> None:
    assert ConstantTemperature()(LOGITS, LOGITS, TARGET).student.tolist() == [4.0] * 3


def test_the_constant_learns_nothing_and_asks_for_nothing() -> None:
    source = ConstantTemperature()
    source.start_epoch(1)
    source(LOGITS, LOGITS, TARGET, learn_from=torch.tensor([True, False, True]))
    assert not source.observation_due
    assert source.updates == 0
    assert source.diagnostics() == {}
    assert source.state_dict() == {}


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-9, math.inf, math.nan])
def test_an_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(UserError, match=f"temperature={temperature}: give a number from 0.05"):
        ConstantTemperature(temperature)


def test_a_source_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="TemperatureSource must define forward"):
        TemperatureSource()(LOGITS, LOGITS, TARGET)


def test_a_source_that_measures_nothing_says_so() -> None:
    with pytest.raises(NotImplementedError, match="asks for no measurement"):
        TemperatureSource().performance(LOGITS, TARGET)


def test_temperatures_of_half_precision_logits_stay_float32() -> None:
    assert Temperatures.constant(4.0, like=LOGITS.bfloat16()).student.dtype is torch.float32
