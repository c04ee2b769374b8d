"""Temperature sources, which set the temperature of each instance."""

from rlkd.temperature.curriculum import GlobalCTKD, InstanceCTKD
from rlkd.temperature.fixed import ConstantTemperature
from rlkd.temperature.greedy import GreedyLookAhead
from rlkd.temperature.logit_driven import (
    DTKD,
    AdaKD,
    ConfidenceTemperature,
    EntropyTemperature,
    LogitDriven,
    LogitStandardisation,
    MaxLogitTemperature,
    NormKD,
)
from rlkd.temperature.random import RandomTemperature
from rlkd.temperature.recorded import RecordedMean
from rlkd.temperature.schedule import EpochSource, ScheduledTemperature
from rlkd.temperature.source import TEMPERATURE_FLOOR, TemperatureSource

__all__ = [
    "DTKD",
    "TEMPERATURE_FLOOR",
    "AdaKD",
    "ConfidenceTemperature",
    "ConstantTemperature",
    "EntropyTemperature",
    "EpochSource",
    "GlobalCTKD",
    "GreedyLookAhead",
    "InstanceCTKD",
    "LogitDriven",
    "LogitStandardisation",
    "MaxLogitTemperature",
    "NormKD",
    "RandomTemperature",
    "RecordedMean",
    "ScheduledTemperature",
    "TemperatureSource",
]
