"""Shards, the large files that hold many images each: which there are, and their classes."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkd.data.imagenet_names import WNIDS
from rlkd.data.sources.listing import is_hidden, require_text
from rlkd.errors import UserError
from rlkd.text_files import read_text

_MAX_CLASSES = 1_000_000


def find_shards(root: str | Path, patterns: str | Sequence[str], key: str) -> list[Path]:
    """Return the shards of one split, in the order of the patterns, of each by name.

    What a pattern finds must be whole where the shards are numbered, unless digits in the pattern
    say that some of them are meant.

    Args:
        root: the folder that patterns are relative to; `~` is the home folder.
        patterns: file names, with `*` and `?`, or one of them.
        key: the option that gave the patterns, for messages.

    Raises:
        UserError: if a pattern finds nothing or is not relative, one of a numbered set is absent,
            a shard is listed twice, or its name is no text.
    """
    root = Path(root).expanduser()
    files: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            found = sorted(
                file
                for file in root.glob(pattern)
                if is_hidden(pattern) or not is_hidden(file.relative_to(root))
            )
        except (NotImplementedError, ValueError, IndexError):
            raise UserError(
                f"{key}={pattern}: give file names within data.root={root}, such as train-*"
            ) from None
        if not found:
            raise UserError(f"{root} has no {pattern}: fix data.root or {key}")
        for file in found:
            require_text(str(file))
        if not re.search(r"\d", Path(pattern).name):
            _check_complete(found)
        files += found
    if not files:
        raise UserError(f"{key} is empty: name the shards, such as {key}='train-*'")
    _check_twice(files, key)
    return files


def _check_complete(files: Sequence[Path]) -> None:
    """Refuse a split whose names count more files (`-00000-of-00004`) than there are."""
    series: dict[tuple[Path, str, int], list[Path]] = {}
    for file in files:
        numbered = re.match(r"(.*?)-\d+-of-(\d+)", file.stem)
        if numbered:
            series.setdefault((file.parent, numbered[1], int(numbered[2])), []).append(file)
    for (folder, _, total), found in series.items():
        if len(found) != total:
            raise UserError(
                f"{folder} has {len(found)} of the {total} files that the name {found[0].name} "
                "counts: complete the download"
            )


def _check_twice(files: Sequence[Path], key: str) -> None:
    seen: dict[tuple[int, int], Path] = {}
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise UserError(f"{key}: {file} cannot be read ({error.strerror})") from None
        before = seen.setdefault((stat.st_dev, stat.st_ino), file)
        if before is not file:
            also = "" if before == file else f", as {before} and as {file}"
            raise UserError(
                f"{key} lists the shard {file.resolve()} twice{also}: its images would "
                "count twice, list it once"
            )


def given_names(class_names: Any) -> tuple[str, ...] | None:
    """Return the class names that an option gives; None where it gives none.

    Args:
        class_names: a list; `imagenet` for the 1,000 ids of ImageNet; a file of one name a line; a
            number of classes, which are then called by their numbers; or None.

    Raises:
        UserError: for anything else, more than a million, or a name that comes twice.
    """
    if class_names is None:
        return None
    if class_names == "imagenet":
        return WNIDS
    if isinstance(class_names, int) and not isinstance(class_names, bool) and class_names > 0:
        _check_count(class_names)
        return tuple(str(number) for number in range(class_names))
    if isinstance(class_names, str):
        path = Path(class_names).expanduser()
        try:
            class_names = read_text(path, "give a file of one name a line").split("\n")
        except UserError as error:
            raise UserError(f"data.class_names={class_names}: {error}") from None
        class_names = [name.strip() for name in class_names if name.strip()]
    if not isinstance(class_names, list | tuple) or not class_names:
        raise UserError(
            f"data.class_names={class_names}: give a list, a file of one name a line, imagenet, or "
            "the number of classes"
        )
    _check_count(len(class_names))
    names = tuple(str(name) for name in class_names)
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"data.class_names has {twice} twice: name each class once")
    return names


def _check_count(classes: int) -> None:
    if classes > _MAX_CLASSES:
        raise UserError(
            f"data.class_names gives {classes:,} classes: give {_MAX_CLASSES:,} at most"
        )
