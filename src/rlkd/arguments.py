"""What parts ask of the numbers they are made of: checked where given, refused by name and range.

A part checks all its numbers when it is made, so that a run fails before it trains, and not where
the number is first used, many epochs later.
"""

import math
from numbers import Integral, Real
from typing import Any

from rlkd.errors import InputError

LARGEST = 1e6
"""No weight, rate or temperature is larger: what is, is a slip, and its products overflow."""
SMALLEST = 1e-6
"""No temperature is smaller: a quotient by it would leave float32, or its square would be 0."""
MOST = 10**9
"""No count is larger, unless its part says otherwise."""
WIDEST = 4096
"""Units or channels of a layer that is learnt beside the student."""
MOST_WORKERS = 1024
"""Processes that load data."""
MOST_PIXELS = 2**14
"""Along a side of an image as networks see it."""
MOST_VIEWS = 100_000
"""Of one image, that training draws from."""
LAST_SEED = 2**32 - 1
"""The largest that every random generator takes."""


def count(
    name: str, value: Any, *, least: int = 1, most: int = MOST, optional: bool = False
) -> None:
    """Refuse what is no whole number in a range.

    Args:
        name: of the argument, for the message.
        value: what was given.
        least: the smallest allowed.
        most: the largest allowed.
        optional: whether None is allowed too.

    Raises:
        InputError: for a bool, a fraction, anything but a number, or one out of range.
    """
    if optional and value is None:
        return
    if not _is(value, Integral) or not least <= value <= most:
        wanted = f"a whole number of at least {least}, at most {most}"
        raise _refused(name, value, wanted, optional)


def number(
    name: str,
    value: Any,
    *,
    least: float | int = -LARGEST,
    most: float | int = LARGEST,
    above: float | int = -math.inf,
    below: float | int = math.inf,
    optional: bool = False,
) -> None:
    """Refuse what is no number in a range; NaN is in none.

    Args:
        name: of the argument, for the message.
        value: what was given.
        least: the smallest allowed.
        most: the largest allowed.
        above: a bound that is not itself allowed, in place of `least`.
        below: a bound that is not itself allowed, in place of `most`.
        optional: whether None is allowed too.

    Raises:
        InputError: for a bool, NaN, anything but a number, or one out of range.
    """
    if optional and value is None:
        return
    if not _is(value, Real) or not (least <= value <= most and above < value < below):
        open_start, open_end = above > -math.inf, below < math.inf
        start = f"above {above:g}," if open_start else f"from {least:g} to"
        end = f"below {below:g}" if open_end else f"{'at most ' * open_start}{most:g}"
        raise _refused(name, value, f"a number {start} {end}", optional)


def seed(name: str, value: Any) -> None:
    """Refuse what is no seed of a random generator.

    Raises:
        InputError: for anything but a whole number from 0 to 2^32 - 1.
    """
    count(name, value, least=0, most=LAST_SEED)


def flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False: the text `false` counts as true in an `if`.

    Raises:
        InputError: for anything else.
    """
    if not isinstance(value, bool):
        raise _refused(name, value, "true or false", optional=False)


def _is(value: Any, kind: type) -> bool:
    """Say whether a value is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _refused(name: str, value: Any, wanted: str, optional: bool) -> InputError:
    try:
        shown = " ".join(repr(value).split())
    except ValueError:  # an integer of more digits than Python prints
        shown = f"a {type(value).__name__} without end"
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    return InputError(f"{name}={shown}: give {wanted}{', or null' if optional else ''}")
