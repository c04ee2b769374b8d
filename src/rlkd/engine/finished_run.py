"""The configuration of a run that has ended, and the words that are a verb's own."""

from collections.abc import Collection, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlkd.config.compose import configure, require_whole, unresolved
from rlkd.config.options import LOCK_CHOICES
from rlkd.config.overrides import PATHS, parse, parted, path_value
from rlkd.config.settings import apply, expand_paths, flat, trust
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError


def own_words(overrides: Iterable[str], words: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Part what a verb itself understands from the overrides.

    Args:
        overrides: as given on the command line, all in one grammar; see `overrides.parse`.
        words: the keys that are the verb's own.

    Returns:
        The verb's words with their values, and the other overrides.

    Raises:
        UserError: for a word without a value, or of several.
    """
    own: dict[str, str] = {}
    others: list[str] = []
    for each in overrides:
        key, _, typed = each.partition("=")
        if key not in words:
            others.append(each)
            continue
        parsed = parse(each)
        if parsed.is_sweep_override():
            raise UserError(f"{each}: give {key} one value")
        value = parsed.value()
        if value is None or value == "":
            raise UserError(f"{key} is missing: give {key}=...")
        text = value if isinstance(value, str) else typed
        own[key] = path_value(key, text) if key in PATHS else text
    return own, others


def configured(overrides: Iterable[str], *, run: str | None = None) -> DictConfig:
    """Compose the configuration, or take that of a run, with the student that it left.

    A run's `config.yaml` is data, whoever wrote it: what it names is built only of what is trusted
    (see `rlkd.trust`; whom to trust is said on the command line, never there), it refers to nothing
    outside, such as the environment's variables, and it fetches nothing.

    Args:
        overrides: see `configure`; of a run, values alone: `data.root=DIR`, not `data=coco`.
        run: the folder of the run; None to compose.

    Raises:
        UserError: if it is no run's folder, the run has not ended, or an override does not fit.
    """
    if run is None:
        return configure(overrides)
    folder = RunFolder(Path(run))
    if not folder.config.is_file():
        raise UserError(f"{folder.path} has no config.yaml: give run=FOLDER of a run of rlkd")
    config = folder.settings
    if not isinstance(config.get("student"), DictConfig):
        raise UserError(
            f"{folder.config} is not the configuration of a run of rlkd: it has no section student"
        )
    _require_resolved(config, folder.config)
    settings, trusted = parted(overrides)
    trust(config, trusted, held_by=str(folder.config))
    try:
        require_whole(config)
        config.student.checkpoint = str(folder.student)
        config.student.head = None  # the run has trained it
        config.lock = LOCK_CHOICES[0]  # whatever it was for the run
        if "download" in config.data:
            config.data.download = False
        if "teacher_pretrained" in config.task:  # the student's own weights are loaded
            config.task.teacher_pretrained = None
        OmegaConf.set_struct(config, True)
        apply(config, settings)
        require_whole(config)
        expand_paths(config)
    except OmegaConfBaseException as error:
        raise unresolved(error) from None
    if config.student.checkpoint == str(folder.student):
        _require_student(folder)
    return config


def describes_data(words: Mapping[str, str], overrides: Iterable[str]) -> Path | None:
    """Return the folder of the run that a command names; None where it gives data of its own.

    Args:
        words: the command's own, `run` among them.
        overrides: all others.
    """
    keys = [each.lstrip("+~").partition("=")[0] for each in overrides]
    own = any(key.startswith("data") and key != "data.unreadable" for key in keys)
    return None if own or "run" not in words else Path(words["run"])


def _require_student(folder: RunFolder) -> None:
    """Refuse a run without the student that it left.

    Raises:
        UserError: if it is not there, or another file is.
    """
    fault = folder.student_fault
    if fault is None:
        return
    if not folder.result.is_file():
        raise UserError(
            f"{folder.path} has no {folder.student.name}: let the run end, or give "
            "student.checkpoint=FILE"
        )
    raise UserError(
        f"{folder.student} {fault}: the command that trained it writes it again from the last "
        "checkpoint; or give student.checkpoint=FILE"
    )


def require_student(config: DictConfig, *, published: Container[str] = ()) -> None:
    """Refuse a student that has learnt nothing.

    Args:
        config: the whole configuration.
        published: the roles that have weights without a checkpoint.

    Raises:
        UserError: if it has no checkpoint, or its classifier is new.
    """
    refuse_new_head(config)
    if config.student.checkpoint is None and "student" not in published:
        raise UserError(
            "the student has no weights: give run=FOLDER of a run, or student=NAME "
            "student.checkpoint=FILE"
        )


def refuse_new_head(config: DictConfig) -> None:
    """Refuse a student with a new classifier where nothing trains.

    Raises:
        UserError: if it has one.
    """
    if config.student.get("head") == "new":
        raise UserError(
            "student.head=new is a classifier that has learnt nothing, and nothing trains it here: "
            "leave it out"
        )


def with_weights(node: DictConfig, path: Path | None) -> DictConfig:
    """Return a network's node with another file's weights, or as it is where there is none."""
    made = node if path is None else OmegaConf.merge(node, {"checkpoint": str(path)})
    assert isinstance(made, DictConfig)
    return made


def _require_resolved(config: DictConfig, path: Path) -> None:
    held: Any = OmegaConf.to_container(config)
    for key, value in flat(held):
        if "${" in str(value):
            raise UserError(f"{path}: {key} is {value}, but a run is stored without references")
