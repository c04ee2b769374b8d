"""The one door for text, JSON and YAML on a disk: regular files of bounded size and depth."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rlkd.atomic import whole
from rlkd.errors import UserError, one_line
from rlkd.regular_files import read_regular

if TYPE_CHECKING:
    from omegaconf import DictConfig

MAX_BYTES = 64 * 2**20
"""Of a text file that nothing else is said of."""
MAX_DEPTH = 50
"""How deeply JSON and YAML may be nested, so that whatever walks through them comes to an end."""
FORMAT = 1
"""Of all that a run or a comparison leaves; whoever changes the shape of a file of it adds one."""
_MAX_CONFIG_BYTES = 2**20
_MAX_CONFIG_NODES = 50_000
"""A configuration of that many settings takes three seconds to read."""

Pairs = list[tuple[str, Any]]


def read_text(path: str | Path, remedy: str, *, limit: int = MAX_BYTES) -> str:
    """Read a file of UTF-8.

    Args:
        path: the file.
        remedy: what the user can do when it is not there.
        limit: bytes that it may have.

    Raises:
        UserError: if it is missing, cannot be read, or is no text.
    """
    try:
        return read_regular(path, limit).decode()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {_reason(error)}; {remedy}") from None


def read_json(path: str | Path, remedy: str, *, limit: int = MAX_BYTES) -> Any:
    """Read a file of JSON; see `parse_json`.

    Args:
        path: the file.
        remedy: what the user can do when it cannot be read.
        limit: bytes that it may have.

    Raises:
        UserError: as `read_text`, or if it is no JSON.
    """
    text = read_text(path, remedy, limit=limit)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); {remedy}") from None


def read_config(path: str | Path, remedy: str) -> "DictConfig":
    """Read a configuration that a run wrote; see `parse_config`.

    Args:
        path: the file.
        remedy: what the user can do when it cannot be read.

    Raises:
        UserError: as `read_text`, or if it is no configuration.
    """
    text = read_text(path, remedy, limit=_MAX_CONFIG_BYTES)
    try:
        return parse_config(text)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}; {remedy}") from None


def read_object(path: str | Path, remedy: str, *, limit: int = MAX_BYTES) -> dict[str, Any]:
    """Read an object that `write_object` wrote, without its format number; see `read_json`.

    Raises:
        UserError: as `read_json`, or if it is no object, or of another format.
    """
    held = read_json(path, remedy, limit=limit)
    if not isinstance(held, dict):
        raise UserError(f"{path} holds no JSON object; {remedy}")
    values = cast("dict[str, Any]", held)
    require_format(values.pop("format", None), path)
    return values


def write_object(path: str | Path, values: Mapping[str, Any], *, indent: int = 1) -> None:
    """Write a JSON object with the format number, whole or not at all; see `write_text`."""
    held = {"format": FORMAT, **values}
    write_text(path, json.dumps(held, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def require_format(found: object, what: str | Path) -> None:
    """Refuse what was written in another format than this release reads.

    Args:
        found: the format number there; None where there is none.
        what: the file or the part of it that has the number.

    Raises:
        UserError: if it is another.
    """
    if type(found) is not int or found != FORMAT:
        number = "no format number" if found is None else f"format {shown(found)}"
        raise UserError(
            f"{what} has {number}, this release of rlkd reads {FORMAT}: use the release "
            "that wrote it, or begin again in another folder"
        )


def write_text(path: str | Path, text: str) -> None:
    """Write a file in one step: a reader sees the old text or the new one, never a part.

    It is UTF-8; what is half a character, of a name that is none, has an escape in its place.

    Raises:
        UserError: if the folder cannot be made or written to, or is full.
    """
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def parse_json(text: str | bytes, *, pairs: Callable[[Pairs], Any] | None = None) -> Any:
    """Parse JSON, which knows neither NaN nor infinity, and here no key twice in an object.

    Args:
        text: the JSON.
        pairs: makes what stands for an object of its keys and values. Whoever gives it looks at
            each number too: NaN and infinity are let through then.

    Raises:
        ValueError: in one line, if it is none, or is nested too deeply.
    """
    try:
        value: Any = json.loads(
            text,
            object_pairs_hook=pairs or _object,
            parse_constant=_refuse_constant if pairs is None else None,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(_reason(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not _shallow(value, MAX_DEPTH):
        raise ValueError("nested too deeply")
    return value


def parse_config(text: str) -> "DictConfig":
    """Parse the YAML of a configuration, as `OmegaConf.create` does.

    Raises:
        ValueError: in one line, if it is none, is too long or nested too deeply, or has an alias,
            with which a short text can stand for an endless one.
    """
    import yaml  # whoever reads no configuration needs neither
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        depth = nodes = 0
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # pyright: ignore[reportUnknownMemberType]
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"line {event.start_mark.line + 1} has an alias (*)")
            nodes += isinstance(event, yaml.NodeEvent)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or nodes > _MAX_CONFIG_NODES:
                raise ValueError("nested too deeply" if depth > MAX_DEPTH else "too long")
        config = OmegaConf.create(text)
    except (yaml.YAMLError, OmegaConfBaseException, ArithmeticError, AttributeError) as error:
        raise ValueError(_reason(error)) from None
    if not isinstance(config, DictConfig):
        raise ValueError("holds no settings")
    return config


def shown(value: object) -> str:
    """Return a value of a file as a message quotes it, in one line that is not long."""
    written = json.dumps(value, default=repr)
    return written if len(written) <= 40 else written[:37] + "..."


def _object(pairs: Pairs) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("an object has a key twice")
    return made


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _shallow(value: Any, depth: int) -> bool:
    """Return whether a value is nested less deeply than that."""
    inner: Any = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return True
    nested = (each for each in cast("list[Any]", inner) if isinstance(each, dict | list))
    return depth > 0 and all(_shallow(each, depth - 1) for each in nested)


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or error)
