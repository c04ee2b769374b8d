"""The folder that a run leaves behind, and who may write in it."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from rlkd.errors import UserError
from rlkd.reporting.files import write_text


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
    def checkpoint(self) -> Path:
        """What a run resumes from."""
        return self.path / "checkpoints" / "last.ckpt"

    def claim(self, config: str) -> None:
        """Make the folder this run's own.

        Args:
            config: the run's configuration, as YAML.

        Raises:
            UserError: if it holds a different run, or files that are no run's.
        """
        if self.config.is_file():
            if self.config.read_text(encoding="utf-8") != config:
                raise UserError(
                    f"{self.path} already holds a different run (its config.yaml differs): give "
                    "another folder with output=DIR, or remove that one"
                )
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

    def require_space(self, mib: int = 64) -> None:
        """Refuse to begin where there is no room for a checkpoint.

        Raises:
            UserError: if fewer mebibytes are free than that.
        """
        free = shutil.disk_usage(self.path).free // 2**20
        if free < mib:
            raise UserError(f"{self.path}: {free} MiB free, a run needs {mib}: free some space")


def config_sha256(config: str) -> str:
    """Return the fingerprint of a configuration."""
    return hashlib.sha256(config.encode()).hexdigest()
