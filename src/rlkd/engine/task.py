"""The interface of a task: its networks, data, forward passes and scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor, nn

from rlkd.config.options import TrainerOptions
from rlkd.engine.class_names import keep_order
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import AnyScores, ImageCounts


class Prepared(ABC):
    """A run that is ready to train; each task has its own.

    Args:
        module: trains the student.
        held_out: the images that the student is scored on, by name; `test` is one.
        images: how many it trains on.
        sha256: of the data, see `data.fingerprint`.
        class_names: in the order of the student's logits.
    """

    def __init__(
        self,
        module: StudentModule,
        held_out: Mapping[str, Any],
        *,
        images: ImageCounts,
        sha256: str,
        class_names: Sequence[str],
    ) -> None:
        self.module, self.held_out = module, held_out
        self.images, self.sha256, self.class_names = images, sha256, class_names

    stored: Any = None
    """Keeps the teacher's logits; None where nothing does."""

    @abstractmethod
    def score(self, network: nn.Module, name: str) -> AnyScores:
        """Score a network on a held-out set."""

    def scores(self) -> dict[str, AnyScores]:
        """Score the student on each held-out set."""
        return {name: self.score(self.module.evaluated, name) for name in self.held_out}

    def teacher_scores(self) -> AnyScores | None:
        """Score the teacher on the test set; None where there is none."""
        return None if self.module.teacher is None else self.score(self.module.teacher, "test")

    def enter(self, folder: RunFolder) -> None:
        """Write into the folder, before training, what a resumed run is checked against."""
        keep_order(folder, self.class_names)

    @abstractmethod
    def leave(self, folder: RunFolder) -> None:
        """Write what runs of this task alone leave in their folders."""

    def remarks(self) -> list[str]:
        """Return remarks on the run once it has trained, a line each."""
        return []


@dataclass(frozen=True)
class Asked:
    """What is to be predicted, and where the answer goes."""

    images: Path
    """An image file, or a folder that is searched with its subfolders."""
    output: Path
    """A folder that is new, empty, or of an earlier prediction."""
    threshold: float | None = None
    """The lowest score or probability that is reported, in [0, 1]; None for the task's own."""
    skip_unreadable: bool = False
    """Leave out and count the files that cannot be decoded."""
    run: Path | None = None
    """Folder of the run, which describes its data; None where they are given."""


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
    """What a written file is compared with the student on: images of the test set, as a rule."""
    formats: Mapping[str, Format]
    """By name."""
    facts: dict[str, object]
    """All that a user of the file has to know, for JSON."""
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
        """Write the student's predictions for images of one's own.

        Raises:
            UserError: for what the user can fix.
        """
        ...

    def exportable(
        self, config: DictConfig, options: TrainerOptions, run: Path | None
    ) -> Exportable:
        """Make the student ready to be written, on the CPU.

        Args:
            config: has the student.
            options: of the run.
            run: its folder, which may describe its data where they are gone; None for others.

        Raises:
            UserError: for what the user can fix.
        """
        ...
