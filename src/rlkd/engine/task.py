"""What a kind of training has of its own: its networks, data, step and scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from rlkd.config.options import TrainerOptions
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import AnyScores, ImageCounts


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
    images: ImageCounts
    sha256: str
    """Of the data, see `data.fingerprint`."""
    """What it is going to train on."""
    enter: Callable[[RunFolder], None] = nothing_more
    """Writes into the folder, before training, what a resumed run is checked against."""
    leave: Callable[[RunFolder], None] = nothing_more
    """Writes what only this kind of run leaves in its folder."""
    remarks: Callable[[], list[str]] = list[str]
    """Returns what is to be said of the run once it has trained, a line each."""


@dataclass(frozen=True)
class Asked:
    """What is to be predicted, and where the answer goes."""

    images: Path
    """An image file, or a folder that is searched with its subfolders."""
    output: Path
    """A folder that is new, empty, or of an earlier prediction."""
    threshold: float | None = None
    """The lowest score or probability that is told, in [0, 1]; None for the task's own."""
    skip_unreadable: bool = False
    """Leave out and count the files that cannot be decoded."""


Answer = Callable[[Float[Tensor, "..."]], Sequence[Tensor]]
"""A network's outputs for one input, as tensors in main memory whose entries are to agree."""


class Format(ABC):
    """A kind of file that a student is written to."""

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            UserError: if the format does not hold the student.
        """

    @abstractmethod
    def read(self, path: Path) -> Answer:
        """Return the answers that a file gives.

        Raises:
            UserError: if it cannot be read back.
        """


@dataclass(frozen=True)
class Exportable:
    """A student that can be written for use elsewhere."""

    answer: Answer
    """The student's own."""
    inputs: Sequence[Float[Tensor, "..."]]
    """What a written file is compared with the student on: images of the test set."""
    formats: Mapping[str, Format]
    """By name."""
    facts: dict[str, object]
    """What a user of the file has to know, for JSON."""
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why a format that others have is not among them."""


@runtime_checkable
class Task(Protocol):
    """A kind of training."""

    def prepare(self, config: DictConfig, options: TrainerOptions) -> Prepared:
        """Load the data, make the networks and find out whether all fits together.

        Raises:
            UserError: for what the user can fix.
        """
        ...

    def score_checkpoints(
        self, config: DictConfig, options: TrainerOptions, console: Console
    ) -> dict[str, AnyScores]:
        """Score the checkpoints that are given on the test set, by role, and print them.

        Raises:
            UserError: for what the user can fix.
        """
        ...

    def validate(self, config: DictConfig) -> None:
        """Build all parts but the data, on small stand-ins.

        Raises:
            UserError: for the first part that does not build.
        """
        ...

    def predict(
        self, config: DictConfig, options: TrainerOptions, asked: Asked, console: Console
    ) -> None:
        """Write what the student says of somebody's images.

        Raises:
            UserError: for what the user can fix.
        """
        ...

    def exportable(self, config: DictConfig, options: TrainerOptions) -> Exportable:
        """Make the student ready to be written, on the CPU.

        Raises:
            UserError: for what the user can fix.
        """
        ...
