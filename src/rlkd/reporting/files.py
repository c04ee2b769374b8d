"""Files that are either whole or absent, and the reading of JSON that a person may have edited."""

import hashlib
import json
from pathlib import Path
from typing import cast

from rlkd.atomic import whole
from rlkd.errors import UserError


def write_text(path: str | Path, text: str) -> None:
    """Write a file in one step: a reader sees the old text or the new one, never a part.

    It is UTF-8; what is half a character, of a name that is none, has an escape in its place.

    Raises:
        UserError: The folder cannot be made or written to, or is full.
    """
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def read_text(path: str | Path, remedy: str) -> str:
    """Read a file.

    Args:
        path: The file.
        remedy: What the user can do when it is not there.

    Raises:
        UserError: The file is missing or cannot be read.
    """
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; {remedy}") from None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def parse_object(text: str, source: str) -> dict[str, object]:
    """Parse a JSON object.

    Args:
        text: The JSON.
        source: What the text is called in an error, usually a path.

    Raises:
        UserError: The text is not JSON, or not an object.
    """
    try:
        parsed: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{source} is not valid JSON (line {error.lineno}: {error.msg}); "
            "restore the file or repeat the run"
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
        found = json.dumps(self.values[key])
        shown = found if len(found) <= 40 else found[:37] + "..."
        return UserError(
            f"{self.source}: field {key!r} is {shown}, expected {wanted}; correct it or repeat "
            "the run"
        )

    def number(self, key: str) -> float:
        """Return a number; null stands for one that is not known, and is read as NaN."""
        value = self.get(key)
        if value is None:
            return float("nan")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(key, "a number")
        return float(value)

    def integer(self, key: str) -> int:
        """Return a whole number."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(key, "a whole number")
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
