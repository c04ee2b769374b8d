"""Instance temperature knowledge distillation: a temperature for every training instance.

A teacher trains a smaller student by its softened outputs; a reinforcement-learning agent sets
the temperature of every instance of every batch. Source: Zhang et al., "Instance Temperature
Knowledge Distillation" (arXiv 2407.00115).
"""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from rlkd import losses, models
    from rlkd.agent import TemperatureAgent, instance_state
    from rlkd.errors import UserError
    from rlkd.reporting import Result
    from rlkd.temperature import ConstantTemperature, RandomTemperature, TemperatureSource
    from rlkd.types import Batch, Temperatures

__all__ = [
    "Batch",
    "ConstantTemperature",
    "RandomTemperature",
    "TemperatureAgent",
    "TemperatureSource",
    "Temperatures",
    "UserError",
    "distill",
    "instance_state",
    "losses",
    "models",
    "train",
]
_HOMES = {
    **dict.fromkeys(("TemperatureAgent", "instance_state"), "rlkd.agent"),
    **dict.fromkeys(
        ("ConstantTemperature", "RandomTemperature", "TemperatureSource"), "rlkd.temperature"
    ),
    **dict.fromkeys(("Batch", "Temperatures"), "rlkd.types"),
    "UserError": "rlkd.errors",
}
_ROOMS = (
    *("agent", "data", "errors", "exploration", "lightning_callback", "losses", "models"),
    *("reporting", "temperature", "types"),
)


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: torch takes seconds, and Ctrl-C may come in them."""
    if name == "__version__":
        return version("rlkd")
    if name in _ROOMS:
        return import_module(f"rlkd.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rlkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*globals(), *__all__, *_ROOMS})


def distill(overrides: Iterable[str] = (), *, console: "Console | None" = None) -> "Result":
    """Distil a teacher into a student, as `rlkd distill` does; see `rlkd.engine.run.distill`."""
    # Imported when called: a loop of one's own needs neither Lightning nor Hydra.
    from rlkd.engine.run import distill as run

    return run(overrides, console=console)


def train(overrides: Iterable[str] = (), *, console: "Console | None" = None) -> "Result":
    """Train a network on labels alone, as `rlkd train` does; see `rlkd.engine.run.distill`."""
    from rlkd.engine.run import train as run

    return run(overrides, console=console)
