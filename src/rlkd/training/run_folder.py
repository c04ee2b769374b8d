"""The folder that a run leaves behind, and who may write in it."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from rlkd.errors import UserError
from rlkd.reporting import ImageCounts
from rlkd.reporting.files import write_text
from rlkd.training.checkpoint_store import CheckpointStore
from rlkd.training.identity import as_settings, difference


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

    @property
    def images(self) -> Path:
        """What images the run trains on, which a run that goes on is checked against."""
        return self.path / "images.json"

    def claim(self, config: str, images: ImageCounts, sha256: str) -> None:
        """Make the folder this run's own.

        Args:
            config: the run's configuration, as YAML.
            images: what it is going to train on.
            sha256: of its data, see `data.fingerprint`.

        Raises:
            UserError: if it holds a different run, one that began on other images, or files that
                are no run's.
        """
        counts = json.dumps(asdict(images) | {"sha256": sha256})
        if self.config.is_file():
            self.require_same(config)
            before = self.images.read_text(encoding="utf-8") if self.images.is_file() else counts
            if before != counts:
                raise UserError(
                    f"{self.path} was begun on other images ({before}, these are {counts}): give "
                    "the data.root that it was begun with"
                )
            if not self.result.is_file():
                write_text(self.config, config)
                write_text(self.images, counts)
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
        write_text(self.images, counts)

    def require_same(self, config: str) -> None:
        """Refuse a run that the folder is not of, if it is of one; see `identity`.

        Raises:
            UserError: if it holds a different run.
        """
        found = difference(self._held, config) if self.config.is_file() else None
        if found is not None:
            other, held, wanted = found
            raise UserError(
                f"{self.path} already holds a different run ({other} is {held} there, {wanted} "
                "here): give another folder with output=DIR, or remove that one"
            )

    def moved(self, config: str) -> bool:
        """Return whether the run is to read its data elsewhere than it did."""
        before, now = (
            as_settings(each).get("data", {}).get("root") for each in (self._held, config)
        )
        return before != now

    @property
    def _held(self) -> str:
        return self.config.read_text(encoding="utf-8")

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
