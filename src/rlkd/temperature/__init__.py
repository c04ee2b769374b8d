"""Temperature sources: what sets the temperature of each instance."""

from rlkd.temperature.fixed import ConstantTemperature
from rlkd.temperature.source import TemperatureSource

__all__ = ["ConstantTemperature", "TemperatureSource"]
