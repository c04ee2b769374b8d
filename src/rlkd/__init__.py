"""Instance temperature knowledge distillation: a temperature for every training instance.

A teacher trains a smaller student by its softened outputs; a reinforcement-learning agent sets
the temperature of every instance of every batch. Source: Zhang et al., "Instance Temperature
Knowledge Distillation" (arXiv 2407.00115).
"""

from rlkd import losses, models
from rlkd.agent import RandomTemperature, TemperatureAgent, instance_state
from rlkd.temperature import ConstantTemperature, TemperatureSource
from rlkd.types import Batch, Temperatures

__all__ = [
    "Batch",
    "ConstantTemperature",
    "RandomTemperature",
    "TemperatureAgent",
    "TemperatureSource",
    "Temperatures",
    "instance_state",
    "losses",
    "models",
]
