"""Errors that the user can fix, and notices, each of one line."""

import operator
import warnings
from collections.abc import Iterable
from itertools import takewhile
from typing import Any


class UserError(Exception):
    """A fault in the input, not in the program.

    The message says what is wrong, where, and how to fix it, in one line, whatever names it
    quotes. The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class InputError(UserError, ValueError):
    """Logits, targets or a number of a wrong type, shape or value, given to a part."""


class DivergenceError(UserError):
    """The training loss became NaN or infinite."""


class RunsFailedError(UserError):
    """Some of several runs failed.

    Args:
        message: how many, and the first with what.
        outcome: what the others came to.
    """

    def __init__(self, message: str, outcome: Any) -> None:
        super().__init__(message)
        self.outcome = outcome


class NoSettingError(UserError):
    """A setting that a configuration does not have; `key` is its name.

    Args:
        key: of the setting.
        help: what to do about it.
    """

    def __init__(self, key: str, help: str) -> None:
        super().__init__(f"there is no setting {key}: {help}")
        self.key = key


class Notice(UserWarning):
    """What a user should know of although nothing failed, in one line.

    The command line prints it without the place in the code that it comes from.
    """


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the up to three known names that are most like a name, the likeliest first.

    Upper and lower case are the same. Of equally near ones that with the longest common start comes
    first: resnet21 is closer to resnet20 than to resnet32.
    """
    from difflib import get_close_matches  # on the way to an error alone

    by_lower_case, name = {each.lower(): each for each in known}, name.lower()
    found = get_close_matches(name, by_lower_case, cutoff=0.5)
    found.sort(key=lambda each: -sum(takewhile(bool, map(operator.eq, each, name))))
    return [by_lower_case[each] for each in found]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question about the known name that is most like a name; nothing where none is."""
    return "".join(f"did you mean {each}? " for each in nearest(name, known)[:1])


def notice(line: str) -> None:
    """Warn with a line, as a `Notice`."""
    warnings.warn(line, Notice, stacklevel=3)


def one_line(error: object) -> str:
    """Return the text of an error on one line, without a final stop; its type if it has no text."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
