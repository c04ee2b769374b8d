"""The folder that a run leaves behind, and who may write in it."""

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from rlkd.errors import UserError
from rlkd.reporting.files import write_text
from rlkd.training.checkpoint_store import CheckpointStore
from rlkd.training.options import TrainerOptions


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where each file of a run stands."""

    path: Path

    @property
    def config(self) -> Path:
        """The composed configuration."""
        return self.path / "config.yaml"

    @property
    def result(self) -> Path:
        """The figures of the last epoch; there only when the run has ended."""
        return self.path / "result.json"

    @property
    def metrics(self) -> Path:
        """One row an epoch."""
        return self.path / "metrics.csv"

    @property
    def policy(self) -> Path:
        """Mean temperature over both confidences."""
        return self.path / "policy.json"

    @property
    def report(self) -> Path:
        """The pictures."""
        return self.path / "report.html"

    @property
    def student(self) -> Path:
        """The student's weights, alone."""
        return self.path / "student.safetensors"

    @property
    def checkpoints(self) -> CheckpointStore:
        """What a run resumes from."""
        return CheckpointStore(self.path / "checkpoints")

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint; None where there is none."""
        return self.checkpoints.newest

    def claim(self, config: str) -> None:
        """Make the folder this run's own.

        A run that an earlier release began is the same run where it lacks settings of the trainer
        that are new, and these have their defaults; and whatever it had to choose from under
        `published`, since what was chosen stands in its other settings.

        Args:
            config: the run's configuration, as YAML.

        Raises:
            UserError: if it holds a different run, or files that are no run's.
        """
        if self.config.is_file():
            self.require_same(config)
            if not self.result.is_file():
                write_text(self.config, config)
            return
        # What a kill during this very write left behind is no foreign file.
        if self.path.is_dir() and not all(
            each.match(f".{self.config.name}.*.tmp") for each in self.path.iterdir()
        ):
            raise UserError(
                f"{self.path} holds files that are no run of rlkd: give another folder with "
                "output=DIR"
            )
        write_text(self.config, config)

    def require_same(self, config: str) -> None:
        """Refuse a run that the folder is not of, if it is of one.

        Raises:
            UserError: if it holds a different run.
        """
        before = self.config.read_text(encoding="utf-8") if self.config.is_file() else config
        if before != config and not _same(before, config):
            raise UserError(
                f"{self.path} already holds a different run (its config.yaml differs): give "
                "another folder with output=DIR, or remove that one"
            )

    def require_space(self, mib: int = 64) -> None:
        """Refuse to begin where there is no room for a checkpoint.

        Raises:
            UserError: if fewer mebibytes are free than that.
        """
        free = shutil.disk_usage(self.path).free // 2**20
        if free < mib:
            raise UserError(f"{self.path}: {free} MiB free, a run needs {mib}: free some space")


def _same(before: str, now: str) -> bool:
    """Say whether two configurations differ in no more than what an earlier release lacks."""
    try:
        held: Any = yaml.safe_load(before)
        held["trainer"] = {**asdict(TrainerOptions()), **held["trainer"]}
    except (yaml.YAMLError, TypeError, KeyError):
        return False
    wanted: Any = yaml.safe_load(now)
    return {**held, "published": None} == {**wanted, "published": None}


def config_sha256(config: str) -> str:
    """Return the fingerprint of a configuration."""
    return hashlib.sha256(config.encode()).hexdigest()
