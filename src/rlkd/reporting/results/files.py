"""Files of results: dataclasses as JSON, each field checked by its type when it is read."""

import json
import math
import sys
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from rlkd.errors import UserError
from rlkd.text_files import read_object, shown, write_object

Count = Annotated[int, 0]
"""A whole number from 0."""
Fraction = Annotated[float, 0, 1]
"""A number in [0, 1], or NaN where it is not known."""
_BOUNDS: Any = {
    int: (-(2**63), 2**63 - 1),
    float: (-sys.float_info.max, sys.float_info.max),
}
_NUMBERS: Any = {int: (int,), float: (int, float)}
_WORDS: Any = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}

T = TypeVar("T")


def write_fields(path: str | Path, value: Any) -> None:
    """Write a dataclass as JSON, whole or not at all; figures that are not finite become null.

    Raises:
        UserError: The file cannot be written.
    """
    write_object(path, _plain(value), indent=2)


def json_line(value: Any) -> str:
    """Return dataclasses, lists and mappings of them as JSON, one line of ASCII.

    Figures that are not finite become null, as in files.
    """
    return json.dumps(_plain(value), allow_nan=False)


def read_fields(kind: type[T], path: str | Path, remedy: str) -> T:
    """Read a dataclass that `write_fields` wrote.

    Fields may be strings, numbers, lists, dictionaries, other dataclasses, and unions of those with
    None or of two dataclasses, which their first field tells apart. A null for a number is NaN.

    Args:
        kind: The dataclass.
        path: The file.
        remedy: How to fix a file that is missing or no JSON.

    Raises:
        UserError: The file is missing, no JSON or of another format, or a field is missing, of
            another type or out of its range.
    """
    values = read_object(path, remedy)
    try:
        return _decoded(kind, values, "")
    except ValueError as error:
        raise UserError(f"{path}: {error}; correct it or repeat the run") from None


def _decoded(kind: Any, value: Any, key: str) -> Any:
    """Return a value of JSON as a type says; raise a ValueError that names its field."""
    kinds = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
    if value is None and NoneType in kinds:
        return None
    if is_dataclass(kinds[0]):
        return _object([each for each in kinds if each is not NoneType], value, key)
    origin, inner = get_origin(kinds[0]), get_args(kinds[0])
    plain: Any = inner[0] if origin is Annotated else origin or kinds[0]
    bounds = inner[1:] if origin is Annotated else ()
    if plain is list and type(value) is list:
        return [_decoded(inner[0], each, f"{key}[{i}]") for i, each in enumerate(value)]
    if plain is dict and type(value) is dict:
        return {name: _decoded(inner[1], each, f"{key}.{name}") for name, each in value.items()}
    if plain is str and type(value) is str:
        return value
    if plain is float and value is None:
        return math.nan
    if type(value) in _NUMBERS.get(plain, ()):
        low, high = (*bounds, *_BOUNDS[plain][len(bounds) :])
        if low <= value <= high:
            return float(cast(Any, value)) if plain is float else value
    ends = zip(("from", "to"), bounds, strict=False)
    wanted = " ".join([_WORDS[plain], *(f"{word} {end}" for word, end in ends)])
    raise ValueError(f"field {key!r} is {shown(value)}, expected {wanted}")


def _object(kinds: list[Any], value: Any, key: str) -> Any:
    """Return one of the dataclasses: the one whose first field is there."""
    if type(value) is not dict:
        raise ValueError(f"field {key!r} is {shown(value)}, expected an object")
    prefix = f"{key}." if key else ""
    firsts = {fields(each)[0].name: each for each in kinds}
    kind = next((each for name, each in firsts.items() if name in value), None)
    if kind is None:
        raise ValueError(f"field {' or '.join(repr(prefix + name) for name in firsts)} is missing")
    types, made = get_type_hints(kind, include_extras=True), dict[str, Any]()
    for each in fields(kind):
        name = each.name
        if name not in value:
            if each.default_factory is not MISSING:  # newer than files that are read too
                continue
            raise ValueError(f"field {prefix + name!r} is missing")
        made[name] = _decoded(types[name], value[name], prefix + name)
    return kind(**made)


def _plain(value: Any) -> Any:
    """Return what JSON has for a value: None in the place of figures that are not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_plain(each) for each in cast("list[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
