"""The configuration of a run that has ended, and the words that are a verb's own."""

import difflib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlkd.errors import UserError
from rlkd.training.compose import configure
from rlkd.training.run_folder import RunFolder


def own_words(overrides: Iterable[str], words: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Part what a verb itself understands from the overrides.

    Args:
        overrides: as given on the command line.
        words: the keys that are the verb's own.

    Returns:
        The verb's words with their values, and the other overrides.

    Raises:
        UserError: for a word without a value.
    """
    own: dict[str, str] = {}
    others: list[str] = []
    for each in overrides:
        key, _, value = each.partition("=")
        if key not in words:
            others.append(each)
        elif not value:
            raise UserError(f"{key} is missing: give {key}=...")
        else:
            own[key] = value
    return own, others


def configured(overrides: Iterable[str], *, run: str | None = None) -> DictConfig:
    """Compose the configuration, or take that of a run, with the student that it left.

    A run's `config.yaml` names the code that is called, as any configuration does: take run folders
    from those you trust.

    Args:
        overrides: see `configure`; of a run, values alone: `data.root=DIR`, not `data=coco`.
        run: the folder of the run; None to compose.

    Raises:
        UserError: if it is no run's folder, the run has not ended, or an override does not fit.
    """
    if run is None:
        return configure(overrides)
    folder = RunFolder(Path(run).expanduser())
    if not folder.config.is_file():
        raise UserError(f"{folder.path} has no config.yaml: give run=FOLDER of a run of rlkd")
    try:
        config = OmegaConf.load(folder.config)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{folder.config} cannot be read: {_first_line(error)}") from None
    if not isinstance(config, DictConfig) or "student" not in config:
        raise UserError(f"{folder.config} is not the configuration of a run of rlkd")
    config.student.checkpoint = str(folder.student)
    for each in overrides:
        _set(config, each)
    if config.student.checkpoint == str(folder.student) and not folder.student.is_file():
        raise UserError(
            f"{folder.path} has no {folder.student.name}: let the run end, or give "
            "student.checkpoint=FILE"
        )
    return config


def require_student(config: DictConfig) -> None:
    """Refuse a student that has learnt nothing.

    Raises:
        UserError: if it has no checkpoint.
    """
    if config.student.checkpoint is None:
        raise UserError(
            "the student has no weights: give run=FOLDER of a run, or student=NAME "
            "student.checkpoint=FILE"
        )


def with_weights(node: DictConfig, path: Path | None) -> DictConfig:
    """Return a network's node with another file's weights, or as it is where there is none."""
    made = node if path is None else OmegaConf.merge(node, {"checkpoint": str(path)})
    assert isinstance(made, DictConfig)
    return made


def _set(config: DictConfig, override: str) -> None:
    key, separator, _ = override.partition("=")
    if not separator:
        raise UserError(f"{override}: give overrides as key=value")
    known = dict(_values(config))
    if isinstance(known.get(key), DictConfig):
        raise UserError(
            f"{override}: the run settles {key}; give values of it, such as "
            f"{key}.{next(iter(known[key]), '...')}=..."
        )
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see its config.yaml"
        raise UserError(f"the run has no setting {key}: {hint}")
    try:
        OmegaConf.update(config, key, OmegaConf.select(OmegaConf.from_dotlist([override]), key))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{override}: {_first_line(error)}") from None


def _values(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, DictConfig):
            yield from _values(value, f"{prefix}{name}.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
