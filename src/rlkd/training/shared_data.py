"""Data that several runs of one process share."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlkd.training.build import make

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


def load(node: DictConfig) -> Any:
    """Return the data that the `data` node names.

    Raises:
        UserError: if they are missing or broken.
    """
    latest = _latest.get()
    if latest is None:
        return make(node, "data")
    settings = OmegaConf.to_yaml(node, resolve=True)
    if settings not in latest:
        latest.clear()  # first: memory may not hold both
        latest[settings] = make(node, "data")
    return latest[settings]
