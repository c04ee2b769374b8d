"""Overrides, `key=value`, in Hydra's grammar; a path is the text that the shell hands over."""

import errno
import os
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    Override,
    Quote,
    QuotedString,
    Transformer,
    ValueType,
)

from rlkd.errors import UserError
from rlkd.trust import TRUST, packages

PATTERNS = frozenset({"data.train", "data.test", "data.class_names", "teacher.classes"})
"""The paths that may also be several, `[a,b]`, or a number."""
PATHS = PATTERNS | {
    *("data.root", "data.train_images", "data.train_annotations"),
    *("data.test_images", "data.test_annotations", "teacher.checkpoint", "student.checkpoint"),
    *("teacher.cache",),
    *("temperature.like", "output", "configs", "run", "images", "to"),
}
"""The settings, and the words of verbs, whose values are paths: the one list of them.

Such a value is taken as it stands, whatever characters it has, and never asks for a sweep by a bare
comma. What keeps Hydra's meaning is `null`; a value in quotes, `'a b'`; an interpolation,
`${seed}`; `choice(a,b)`, which asks for a sweep; and, where there is no such file, `[a,b]` (and
`[a]`, where several may be). A name of one of these forms is given as `./null`. A leading `~` is
the home folder.
"""


_BREAKS = frozenset("\0\n\r\x85\u2028\u2029")
"""What no path may hold: NUL, and what YAML takes for the end of a line."""
_WRITTEN_BELOW = 150
"""Characters that names below a folder may take."""
_CHOICES = (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP)


def parse(given: str) -> Override:
    """Parse one override.

    Raises:
        UserError: for what is none.
    """
    key, separator, value = given.partition("=")
    if not separator and not given.startswith("~"):
        hint = f", such as run={given}" if os.path.isdir(given) else ""
        raise UserError(f"{given} is no setting: give KEY=VALUE{hint}")
    if separator and key == TRUST:
        parsed = _parsed(f"{key}={quoted(value)}")  # commas part packages, and ask for no sweep
    elif separator and key.lstrip("+") in PATHS and not _is_hydras(key.lstrip("+"), value):
        parsed = _parsed(f"{key}={quoted(value)}")
    else:
        parsed = _parsed(given)
    parsed.input_line = given
    return parsed


def quoted(text: str) -> str:
    """Return a text as Hydra's grammar reads it back."""
    return QuotedString(text, Quote.single).with_quotes()


def parted(overrides: Iterable[str]) -> tuple[list[Override], list[str]]:
    """Parse overrides of one value each, and part them from the packages that the user trusts.

    Raises:
        UserError: for what is no override, asks for a sweep, or names no packages.
    """
    settings, trusted = list[Override](), list[str]()
    for each in map(parse, overrides):
        require_one_value(each)
        if each.key_or_group == TRUST and each.is_delete():
            raise UserError(f"{each.input_line}: nobody is trusted unless {TRUST}=... is given")
        if each.key_or_group == TRUST:
            trusted += packages(str(each.value() or ""))
        else:
            settings.append(each)
    return settings, trusted


def require_one_value(override: Override) -> None:
    """Refuse an override that asks for a sweep.

    Raises:
        UserError: if it does.
    """
    if override.is_sweep_override():
        raise UserError(
            f"{override.input_line}: several values are for `rlkd compare`, or for --multirun"
        )


def as_swept(override: Override) -> list[str]:
    """Return the values that an override gives its key, one or several, each as `parse` reads it.

    Raises:
        UserError: for a sweep over a range, or over names, that Hydra alone knows.
    """
    key = override.key_or_group
    if not override.is_sweep_override():
        value = override.value()
        is_text = isinstance(value, str)
        return [_written(key, value) if is_text else override.get_value_element_as_str()]
    if override.value_type not in _CHOICES:
        raise UserError(f"{override.input_line}: give the values one by one, {key}=a,b,c")
    return [_written(key, each) for each in override.sweep_iterator()]


def path_value(key: str, value: Any) -> Any:
    """Return the value of a path, with the home folder in place of `~`.

    Args:
        key: one of `PATHS`.
        value: as it was composed.

    Raises:
        UserError: if it is several paths where one is wanted, empty, or no path of any system; or
            names the home folder of nobody.
    """
    if value is None or (key in PATTERNS and not isinstance(value, str)):
        return value
    if not isinstance(value, str | int | float):
        raise UserError(f"{key}={value}: give one path, no list")
    text = str(value)
    if not text:
        raise UserError(f"{key} is missing: give {key}=...")
    expanded = os.path.expanduser(text)
    if not _BREAKS.isdisjoint(text) or not _is_unicode(expanded):
        raise UserError(f"{key}={expanded!a}: a path is one line of UTF-8 text; rename it")
    if _is_too_long(expanded):
        raise UserError(f"{key}={text[:40]}...: {key} is too long for a path; give a shorter one")
    if not text.startswith("~"):
        # Path("./~x") is Path("~x"), which its readers would expand.
        return os.path.abspath(text) if os.path.normpath(text).startswith("~") else text
    if expanded.startswith("~"):
        raise UserError(
            f"{key}={text}: there is no such user; a name that begins with ~ is given as "
            f"{key}=./{text}"
        )
    return expanded


def _is_too_long(text: str) -> bool:
    """Return whether a path, or what is written below it, has a name longer than systems allow."""
    try:
        os.lstat(os.path.join(os.path.abspath(text), "x" * _WRITTEN_BELOW))
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def _is_hydras(key: str, value: str) -> bool:
    """Return whether the value of a path means what Hydra's grammar says, not what it spells."""
    if value.lower() == "null":
        return True
    try:
        parsed = _parsed(f"key={value}")
    except UserError:
        return value.startswith("choice(") and value.endswith(")")
    read: Any = parsed.value()
    if parsed.value_type is ValueType.SIMPLE_CHOICE_SWEEP:
        return key in PATTERNS and all(type(each) is int for each in read.list)
    if isinstance(read, str):
        return value.startswith(("'", '"'))
    if isinstance(read, list):
        return (key in PATTERNS or "," in value) and not os.path.lexists(value)
    if parsed.value_type is ValueType.CHOICE_SWEEP:
        return value.startswith("choice(")
    return key in PATTERNS and type(read) is int


def _written(key: str, value: Any) -> str:
    """Return a value as it is, in quotes where `parse` would read it as another."""
    text = value.text if isinstance(value, QuotedString) else value
    if not isinstance(text, str):
        return Transformer.str(value)
    try:
        return text if parse(f"{key}={text}").value() == text else quoted(text)
    except UserError:
        return quoted(text)


def _parsed(given: str) -> Override:
    try:
        return OverridesParser.create().parse_override(given)
    except Exception as error:  # of a number of too many digits, say, what Python raises
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{given}: {line}: give overrides as key=value, other characters than letters and "
            "digits in quotes of their own, key=\"'value'\""
        ) from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
