"""Lightning without its hints, which tell a user of `rlkd` nothing."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

_LOGGERS = ("lightning.pytorch", "lightning.fabric")
_HINTS = (
    ".*in eval mode at the start of training",  # the teacher, which is to be
    ".*does not have many workers",  # images lie in memory
    ".*your dataloader is not resumable",  # the loader starts where the checkpoint says
    ".*GPU available but not used",  # trainer.accelerator=cpu says so
)


@contextmanager
def quiet_lightning() -> Generator[None]:
    """Silence Lightning's hints, and warnings that are its developers' to heed."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        for hint in _HINTS:
            warnings.filterwarnings("ignore", message=hint)
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"lightning\.")
        for each in loggers:
            each.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
