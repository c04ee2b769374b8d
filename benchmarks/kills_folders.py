"""What stands in a folder that a command writes to, without what differs from time to time."""

import csv
import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkd.atomic import is_unfinished

TIMES = {
    *("images_per_second", "wall_seconds", "time/data_share", "images_per_second_median"),
    "relative_speed",
    *("config_sha256", "folder"),  # which have the name of the output folder
}
"""Figures and columns that are another's in every run."""


@dataclass(frozen=True)
class State:
    """What each file of a folder holds, by its path in the folder."""

    files: dict[str, Any]

    def differences(self, expected: "State") -> list[str]:
        """Return the files that are not as expected, too many or missing."""
        names = sorted({*self.files, *expected.files})
        return [
            f"{name} differs{_where(self.files[name], expected.files[name])}"
            if name in self.files and name in expected.files
            else f"{name} is {'too many' if name in self.files else 'missing'}"
            for name in names
            if self.files.get(name) != expected.files.get(name)
        ]


def _where(found: Any, expected: Any) -> str:
    """Say in which columns and rows two tables differ, or in what two lists do."""
    if not isinstance(found, list) or not isinstance(expected, list):
        return ""
    if len(found) != len(expected) or not all(isinstance(each, dict) for each in found):
        return f": {found} for {expected}"[:300]
    cells = [
        f"{key} of row {number}: {one.get(key)} for {other.get(key)}"
        for number, (one, other) in enumerate(zip(found, expected, strict=True))
        for key in {**one, **other}
        if one.get(key) != other.get(key)
    ]
    return f" in {'; '.join(cells)}"[:300]


def state_of(folder: Path) -> State:
    """Read a folder.

    Raises:
        ValueError: if a file is not whole.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _counts(path)]
    return State({path.relative_to(folder).as_posix(): _content(path, folder) for path in files})


def faults_after_a_kill(folder: Path, before: State, expected: State) -> list[str]:
    """Return what is half written, gone, or neither old nor new."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and _counts(path)]
    faults: list[str] = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if is_unfinished(path) or path.suffix == ".tmp":
            continue
        try:
            content = _content(path, folder)
        except ValueError as error:
            faults.append(f"{name} is not whole: {error}")
            continue
        whole = path.suffix in (".safetensors", ".onnx", ".pt2", ".png")
        if whole and content not in (before.files.get(name), expected.files.get(name)):
            faults.append(f"{name} is neither the old one nor the new one")
    names = {path.relative_to(folder).as_posix() for path in paths}
    lost = [each for each in before.files if each not in names]
    return faults + [f"{each} is gone" for each in lost if not each.endswith((".ckpt", ".tmp"))]


def _counts(path: Path) -> bool:
    """Return whether a file is more than a trace: events are added to as they come."""
    return path.name != ".lock" and "tensorboard" not in path.parts


def _content(path: Path, folder: Path) -> Any:
    if path.suffix in (".ckpt", ".tmp"):
        return "there"
    content = path.read_bytes()
    if path.name == "SHA256SUMS":
        # A kill between the removal of an old checkpoint and the new list leaves it listed.
        listed = [_whole_line(line) for line in content.decode().splitlines()]
        return [name for name in listed if (path.parent / name).is_file()]
    if path.suffix == ".json":
        return _without_times(json.loads(content.decode().replace(str(folder), "OUT")))
    if path.suffix == ".csv":
        return _rows(content.decode().replace(str(folder), "OUT"))
    if path.suffix == ".html":
        return _headings(content.decode())
    if path.suffix in (".yaml", ".md"):
        lines = content.decode().replace(str(folder), "OUT").splitlines()
        return [_without_speed(line) if path.name == "compare.md" else line for line in lines]
    return hashlib.sha256(content).hexdigest()


def _whole_line(line: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}  step-\d+\.ckpt", line):
        raise ValueError(f"half a line: {line!r}")
    return line[66:]


def _without_speed(line: str) -> list[str]:
    """Return the cells of a table's line but for the last two, images a second and speed."""
    return [cell.strip(" -") for cell in line.split("|")[:-3]] if line[:1] == "|" else [line]


def _without_times(held: Any) -> Any:
    if isinstance(held, dict):
        return {key: _without_times(each) for key, each in held.items() if key not in TIMES}
    return [_without_times(each) for each in held] if isinstance(held, list) else held


def _rows(text: str) -> list[dict[str, str]]:
    if not text.endswith("\n"):
        raise ValueError("half a line at the end")
    rows = list(csv.DictReader(io.StringIO(text)))
    epochs = [row["epoch"] for row in rows if "epoch" in row]
    if len(set(epochs)) < len(epochs):
        raise ValueError(f"an epoch is there twice: {epochs}")
    return [{key: cell for key, cell in row.items() if key not in TIMES} for row in rows]


def _headings(text: str) -> list[str]:
    if not text.rstrip().endswith("</html>"):
        raise ValueError("half a page")
    return re.findall(r"<h[123][^>]*>[^<]*|<svg", text)
