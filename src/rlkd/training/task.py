"""What a kind of training has of its own: its networks, data, step and scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from omegaconf import DictConfig
from rich.console import Console

from rlkd.reporting import AnyScores
from rlkd.training.module import StudentModule
from rlkd.training.options import TrainerOptions
from rlkd.training.run_folder import RunFolder


def nothing_more(folder: RunFolder) -> None:
    """Leave nothing in a run's folder beyond what every run does."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train."""

    module: StudentModule
    scores: Callable[[], dict[str, AnyScores]]
    """Scores the student on each held-out set, by its name; `test` is one."""
    teacher_scores: Callable[[], AnyScores | None]
    """Scores the teacher on the test set; None where there is none."""
    leave: Callable[[RunFolder], None] = nothing_more
    """Writes what only this kind of run leaves in its folder."""


@runtime_checkable
class Task(Protocol):
    """A kind of training."""

    def prepare(self, config: DictConfig, options: TrainerOptions) -> Prepared:
        """Load the data, make the networks and find out whether all fits together.

        Raises:
            UserError: for what the user can mend.
        """
        ...

    def score_checkpoints(
        self, config: DictConfig, options: TrainerOptions, console: Console
    ) -> dict[str, AnyScores]:
        """Score the checkpoints that are given on the test set, by role, and print them.

        Raises:
            UserError: for what the user can mend.
        """
        ...

    def validate(self, config: DictConfig) -> None:
        """Build all parts but the data, on small stand-ins.

        Raises:
            UserError: for the first part that does not build.
        """
        ...
