"""What a run came to: the figures of its last epoch, and where they come from."""

import json
import math
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import cast

from rlkd.errors import UserError
from rlkd.reporting.results.files import Fields, parse_object
from rlkd.reporting.results.scores import DetectionScores, Scores, kind_of, read_scores
from rlkd.text_files import read_text, write_text


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """How many images a run trained on, and what became of the others."""

    training: int
    """Trained on in every epoch."""
    probe: int = 0
    """Held out of training to measure a reward on, or so that all arms train on the same."""
    validation: int = 0
    """Held out of training to validate on."""
    mixed: int = 0
    """Of those trained on, mixed with others in each of `mixed_epochs`."""
    mixed_epochs: int = 0
    """Epochs in which exploration mixed images."""

    @property
    def words(self) -> str:
        """The counts in a line."""
        told = [f"{self.training:,} trained on", f"{self.probe:,} held out"]
        told += [f"{self.validation:,} to validate on"] if self.validation else []
        if self.mixed_epochs:
            epochs = "the explored epoch"
            if self.mixed_epochs > 1:
                epochs = f"each of {self.mixed_epochs:,} explored epochs"
            told.append(f"{self.mixed:,} mixed in {epochs}")
        return ", ".join(told)


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
    epochs: int
    """Epochs trained."""
    seed: int
    """The seed of every random choice in the run."""
    images_per_second: float
    """Training images a second, over the run."""
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

    def to_json(self) -> str:
        """Return the result as JSON; a figure that is NaN or infinite is written as null."""
        return json.dumps(_finite(asdict(self)), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "result") -> "Result":
        """Read a result from its JSON.

        Args:
            text: The JSON.
            source: What the text is called in an error, usually a path.

        Raises:
            UserError: The text is not JSON, a field is missing or of the wrong type, or scores are
                of no known kind or of two.
        """
        fields = Fields(parse_object(text, source), source)
        test = _scores(fields, "test")
        if test is None:
            raise fields.fault("test", "an object")
        versions = fields.section("versions")
        if versions is None:
            raise fields.fault("versions", "an object")
        teacher = _scores(fields, "teacher")
        validation = _scores(fields, "validation") if "validation" in fields.values else None
        held = {"test": test, "teacher": teacher, "validation": validation}
        weights = fields.values.get("student_sha256") is not None
        kind_of((f"{source}: {name}", scores) for name, scores in held.items() if scores)
        return cls(
            test=test,
            teacher=teacher,
            teacher_sha256=None if teacher is None else fields.string("teacher_sha256"),
            images=_images(fields),
            epochs=fields.count("epochs"),
            seed=fields.integer("seed"),
            images_per_second=fields.number("images_per_second"),
            wall_seconds=fields.number("wall_seconds"),
            hardware=fields.string("hardware"),
            versions={name: versions.string(name) for name in versions.values},
            config_sha256=fields.string("config_sha256"),
            validation=validation,
            student_sha256=fields.string("student_sha256") if weights else None,
        )

    def write(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all.

        Raises:
            UserError: The file cannot be written.
        """
        write_text(path, self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> "Result":
        """Read a result from a file.

        Raises:
            UserError: The file is missing or is not a result.
        """
        if Path(path).is_dir():
            raise UserError(f"{path} is a folder; name the result.json in it")
        remedy = "name the folder of a finished run"
        return cls.from_json(read_text(path, remedy), source=str(path))


def _scores(fields: Fields, key: str) -> Scores | DetectionScores | None:
    section = fields.section(key)
    return None if section is None else read_scores(section)


def _images(fields: Fields) -> ImageCounts:
    section = fields.section("images")
    if section is None:
        raise fields.fault("images", "an object")
    return ImageCounts(
        **{each.name: section.count(each.name) for each in dataclass_fields(ImageCounts)}
    )


def _finite(value: object) -> object:
    """JSON has no NaN: put None in the place of figures that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast(dict[str, object], value).items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
