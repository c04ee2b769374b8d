"""Instance temperature knowledge distillation: a temperature for every training instance.

A teacher trains a smaller student by its softened outputs; a reinforcement-learning agent sets
the temperature of every instance of every batch. Source: Zhang et al., "Instance Temperature
Knowledge Distillation" (arXiv 2407.00115).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlkd import losses, models
from rlkd.agent import RandomTemperature, TemperatureAgent, instance_state
from rlkd.temperature import ConstantTemperature, TemperatureSource
from rlkd.types import Batch, Temperatures

if TYPE_CHECKING:
    from rlkd.reporting import Result

__all__ = [
    "Batch",
    "ConstantTemperature",
    "RandomTemperature",
    "TemperatureAgent",
    "TemperatureSource",
    "Temperatures",
    "distill",
    "instance_state",
    "losses",
    "models",
]


def distill(overrides: Iterable[str] = ()) -> "Result":
    """Distil a teacher into a student, as `rlkd distill` does; see `rlkd.training.distill`."""
    # Imported when called: a loop of one's own needs neither Lightning nor Hydra.
    from rlkd.training import distill as run

    return run(overrides)
