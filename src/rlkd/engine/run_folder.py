"""The folder that a run leaves behind, and who may write in it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from rlkd.atomic import is_unfinished
from rlkd.config.compose import defaults
from rlkd.config.options import LOGGERS
from rlkd.engine.checkpoint_store import CheckpointStore
from rlkd.engine.identity import difference
from rlkd.engine.lock import LOCK
from rlkd.errors import UserError
from rlkd.regular_files import file_sha256
from rlkd.reporting import ImageCounts, Result
from rlkd.text_files import (
    FORMAT,
    read_config,
    read_object,
    require_format,
    write_object,
    write_text,
)

_RESTORE = "restore it, or remove the folder to begin again"


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
    def events(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / "tensorboard"

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint; None where there is none."""
        return self.checkpoints.newest

    @property
    def images(self) -> Path:
        """What images the run trains on, which a run that goes on is checked against."""
        return self.path / "images.json"

    @property
    def complete(self) -> bool:
        """Whether the run has ended, and its student is there as the run left it.

        Raises:
            UserError: if result.json is none.
        """
        return self.result.is_file() and self.student_fault is None

    @property
    def scored(self) -> bool:
        """Whether a comparison has nothing left to do: it is complete, or figures alone are kept.

        Raises:
            UserError: if result.json is none.
        """
        return self.figures_alone or self.complete

    @property
    def figures_alone(self) -> bool:
        """Whether the figures are all that is kept of a run, without student and checkpoints."""
        return self.result.is_file() and not self.student.exists() and not self.checkpoint

    @property
    def student_fault(self) -> str | None:
        """What is wrong with the student's weights; None where nothing is known to be.

        Raises:
            UserError: if there are figures, which are damaged.
        """
        if not self.student.is_file():
            return "is missing"
        if not self.result.is_file():
            return None
        if file_sha256(self.student) == Result.read(self.result).student_sha256:
            return None
        return "is not what the run left there (its SHA-256 is another)"

    def claim(
        self, config: str, images: ImageCounts, sha256: str, *, show: Callable[[str], None] = print
    ) -> None:
        """Make the folder this run's own, and put it in order after a kill.

        `config.yaml` says what the last process to train in it was given.

        Args:
            config: the run's configuration, as YAML.
            images: what it is going to train on.
            sha256: of its data, see `data.fingerprint`.
            show: shows a line.

        Raises:
            UserError: if it holds a different run, one that began on other images, one that has
                ended and neither its student nor a checkpoint is there, or files that are no run's;
                or if a folder in it is a link, through which it would write elsewhere.
        """
        self._refuse_links()
        self.require_same(config)
        self.require_images(images, sha256)
        # What a kill during the very first write left behind is no foreign file.
        if not self.config.is_file() and any(
            each.name != LOCK and not is_unfinished(each)
            for each in (self.path.iterdir() if self.path.is_dir() else ())
        ):
            raise UserError(
                f"{self.path} holds files that are no run of rlkd: give another folder with "
                "output=DIR"
            )
        self._repair(show)
        write_text(self.config, as_stored(config))
        write_object(self.images, _counts(images, sha256))

    def _refuse_links(self) -> None:
        trackers = (self.path / name for name in LOGGERS)
        for each in (self.checkpoints.folder, self.events, *trackers):
            if each.is_symlink():
                raise UserError(
                    f"{each} is a link, through which the run would write and remove files "
                    "elsewhere: put the folder itself in its place"
                )

    def _repair(self, show: Callable[[str], None]) -> None:
        """Make room for the student of a run that has ended, where something else is."""
        fault = self.student_fault if self.result.is_file() else None
        if fault is None:
            return
        if self.checkpoint is None:
            raise UserError(
                f"{self.student} {fault}, and the run, which has ended, has no checkpoint to write "
                f"it from: put a copy of it back, or remove {self.path} to begin again"
            )
        if self.student.exists():
            aside = self.student.with_name(f"{self.student.name}.damaged")
            os.replace(self.student, aside)
            fault = f"{fault}, set aside as {aside.name}"
        show(f"{self.student} {fault}: writing it again from the last checkpoint")

    def require_same(self, config: str) -> None:
        """Refuse a run that the folder is not of, if it is of one; see `identity`.

        Raises:
            UserError: if it holds a different run.
        """
        if not self.config.is_file():
            return
        now: Any = OmegaConf.create(config)
        found = difference(_as_dict(self.settings), _as_dict(now), partial(defaults, now))
        if found is not None:
            other, held, wanted = found
            raise UserError(
                f"{self.path} already holds a different run ({other} is {held} there, {wanted} "
                "here): give another folder with output=DIR, or remove that one"
            )

    def require_images(self, images: ImageCounts, sha256: str) -> None:
        """Refuse a run on other images than those that the folder's run began on, if it did.

        Raises:
            UserError: if they are others.
        """
        counts = _counts(images, sha256)
        before = read_object(self.images, _RESTORE) if self.images.is_file() else counts
        if before != counts:
            raise UserError(
                f"{self.path} was begun on other images ({json.dumps(before)[:300]}, these are "
                f"{json.dumps(counts)}): give the data.root that it was begun with"
            )

    def moved(self, config: str) -> bool:
        """Return whether the run is to read its data elsewhere than it did."""
        settings = (_as_dict(self.settings), _settings(config))
        before, now = (each.get("data", {}).get("root") for each in settings)
        return before != now

    @property
    def settings(self) -> DictConfig:
        """The configuration that the last process to train in the folder was given.

        Raises:
            UserError: if it is missing, damaged, or of another format.
        """
        config = read_config(self.config, _RESTORE)
        require_format(_as_dict(config).get("format"), self.config)  # read as it stands
        del config["format"]
        return config

    def require_space(self, mib: int = 64) -> None:
        """Refuse to begin where there is no room for a checkpoint.

        Raises:
            UserError: if fewer mebibytes are free than that.
        """
        free = shutil.disk_usage(self.path).free // 2**20
        if free < mib:
            raise UserError(f"{self.path}: {free} MiB free, a run needs {mib}: free some space")


def _settings(config: str) -> dict[str, Any]:
    return _as_dict(OmegaConf.create(config))


def _as_dict(config: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(config))


def as_stored(config: str) -> str:
    """Return a configuration, YAML, as `config.yaml` has it: with the format of the run's files."""
    return f"format: {FORMAT}\n{config}"


def config_sha256(config: str) -> str:
    """Return the fingerprint of a configuration: that of its `config.yaml`."""
    return hashlib.sha256(as_stored(config).encode()).hexdigest()


def _counts(images: ImageCounts, sha256: str) -> dict[str, Any]:
    return asdict(images) | {"sha256": sha256}
