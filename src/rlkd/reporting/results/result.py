"""The result of a run: the figures of its last epoch, and where they come from."""

from dataclasses import dataclass
from pathlib import Path

from rlkd.errors import UserError
from rlkd.reporting.results.files import Count, read_fields, write_fields
from rlkd.reporting.results.scores import DetectionScores, Scores, kind_of


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """How many images a run trained on, and what became of the others."""

    training: Count
    """Trained on in every epoch."""
    probe: Count = 0
    """Held out of training to measure a reward on, or so that all arms train on the same."""
    validation: Count = 0
    """Held out of training to validate on."""
    mixed: Count = 0
    """Of those trained on, mixed with others in each of `mixed_epochs`."""
    mixed_epochs: Count = 0
    """Epochs in which exploration mixed images."""

    @property
    def words(self) -> str:
        """The counts in a line."""
        words = [f"{self.training:,} trained on", f"{self.probe:,} held out"]
        words += [f"{self.validation:,} to validate on"] if self.validation else []
        if self.mixed_epochs:
            epochs = "the explored epoch"
            if self.mixed_epochs > 1:
                epochs = f"each of {self.mixed_epochs:,} explored epochs"
            words.append(f"{self.mixed:,} mixed in {epochs}")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run. Its scores are those of the last epoch: nothing is selected on `test`."""

    test: Scores | DetectionScores
    """The student on the test split."""
    teacher: Scores | DetectionScores | None
    """The teacher on the test split; None where there is no teacher."""
    teacher_sha256: str | None
    """SHA-256 of the teacher's weights; None where there is no teacher."""
    images: ImageCounts
    """What it trained on."""
    epochs: Count
    """Epochs trained."""
    seed: int
    """The seed of every random choice in the run."""
    images_per_second: float
    """Training images a second of steps, over the run; loading and evaluations are left out."""
    wall_seconds: float
    """Duration, seconds."""
    hardware: str
    """The machine, in words."""
    versions: dict[str, str]
    """Package to version."""
    config_sha256: str
    """SHA-256 of the composed configuration."""
    validation: Scores | DetectionScores | None = None
    """The student on a validation split; None where none was held out."""
    student_sha256: str | None = None
    """SHA-256 of the file of the student's weights; None before it is written."""

    def write(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all; a figure that is NaN or infinite is null.

        Raises:
            UserError: The file cannot be written.
        """
        write_fields(path, self)

    @classmethod
    def read(cls, path: str | Path) -> "Result":
        """Read a result from a file.

        Raises:
            UserError: The file is missing, damaged, of another format, or no result; or its scores
                are of two kinds.
        """
        if Path(path).is_dir():
            raise UserError(f"{path} is a folder; name the result.json in it")
        result = read_fields(cls, path, "name the folder of a finished run")
        held = {"test": result.test, "teacher": result.teacher, "validation": result.validation}
        kind_of((f"{path}: {name}", scores) for name, scores in held.items() if scores)
        return result
