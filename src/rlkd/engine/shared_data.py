"""Data that several runs of one process share."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlkd.engine.parts import make

_latest: ContextVar[dict[str, Any] | None] = ContextVar("latest", default=None)
"""The data that were loaded last, by their settings; None where nothing is shared."""


@contextmanager
def loaded_once() -> Generator[None]:
    """Within it, runs whose data have the same settings share them; the last loaded are kept."""
    token = _latest.set({})
    try:
        yield
    finally:
        _latest.reset(token)


def load(config: DictConfig) -> Any:
    """Return the data that a configuration names.

    Raises:
        UserError: if they are missing or broken.
    """
    latest = _latest.get()
    if latest is None:
        return make(config, "data")
    settings = OmegaConf.to_yaml(config.data, resolve=True)
    if settings not in latest:
        latest.clear()  # first: memory may not hold both
        latest[settings] = make(config, "data")
    return latest[settings]
