"""The reading of JSON that a person may have edited, field by field."""

import math
from typing import cast

from rlkd.errors import UserError
from rlkd.text_files import parse_json, shown


def parse_object(text: str, source: str) -> dict[str, object]:
    """Parse a JSON object.

    Args:
        text: The JSON.
        source: What the text is called in an error, usually a path.

    Raises:
        UserError: The text is not JSON, or not an object.
    """
    try:
        parsed: object = parse_json(text)
    except ValueError as error:
        raise UserError(
            f"{source} is not valid JSON ({error}); restore the file or repeat the run"
        ) from None
    if not isinstance(parsed, dict):
        raise UserError(f"{source} holds no JSON object; restore the file or repeat the run")
    return cast(dict[str, object], parsed)


class Fields:
    """The fields of a JSON object, each read with its type checked."""

    def __init__(self, values: dict[str, object], source: str) -> None:
        self.values = values
        self.source = source

    def get(self, key: str) -> object:
        """Return a field as it stands.

        Raises:
            UserError: The field is missing.
        """
        if key not in self.values:
            raise UserError(f"{self.source}: field {key!r} is missing; repeat the run")
        return self.values[key]

    def fault(self, key: str, wanted: str) -> UserError:
        """Return the error for a field that is not what it should be."""
        found = shown(self.values[key])
        return UserError(
            f"{self.source}: field {key!r} is {found}, expected {wanted}; correct it or repeat "
            "the run"
        )

    def number(self, key: str) -> float:
        """Return a finite number; null stands for one that is not known, and is read as NaN."""
        value = self.get(key)
        if value is None:
            return float("nan")
        number = as_number(value)
        if number is None:
            raise self.fault(key, "a number")
        return number

    def fraction(self, key: str) -> float:
        """Return a number in [0, 1]; null is read as NaN."""
        number = self.number(key)
        if number < 0 or number > 1:
            raise self.fault(key, "a number from 0 to 1")
        return number

    def integer(self, key: str) -> int:
        """Return a whole number of 64 bits."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
            raise self.fault(key, "a whole number")
        return value

    def count(self, key: str) -> int:
        """Return a whole number, from 0."""
        value = self.integer(key)
        if value < 0:
            raise self.fault(key, "a whole number from 0")
        return value

    def string(self, key: str) -> str:
        """Return a string."""
        value = self.get(key)
        if not isinstance(value, str):
            raise self.fault(key, "a string")
        return value

    def section(self, key: str) -> "Fields | None":
        """Return an object's fields, or None where the file says null."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fault(key, "an object or null")
        return Fields(cast(dict[str, object], value), f"{self.source}: {key}")

    def items(self, key: str) -> list[object]:
        """Return a list."""
        value = self.get(key)
        if not isinstance(value, list):
            raise self.fault(key, "a list")
        return cast(list[object], value)


def as_number(value: object) -> float | None:
    """Return a number of JSON; None where it is none, or too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
