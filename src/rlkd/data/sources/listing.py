"""The one lister of image files: which of a folder's files are images, and in which order."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from torchvision.datasets.folder import IMG_EXTENSIONS

from rlkd.errors import UserError

ENDINGS = tuple(dict.fromkeys((*IMG_EXTENSIONS, ".jfif", ".gif", ".bmp", ".tif", ".tiff", ".webp")))
"""Of the names of image files, in lower or upper case."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What is found in a folder and its subfolders."""

    images: list[str]
    """Names of image files, relative to the folder."""
    others: list[str]
    """Names of the other files."""


def list_images(folder: str | Path) -> Listed:
    """List a folder and its subfolders in the order of torchvision's `ImageFolder`.

    What is hidden is left out: names that begin with a dot, and macOS's `__MACOSX`. Links to
    folders are followed, but not to one that they are in.

    Raises:
        UserError: if a folder cannot be read.
    """
    listed = Listed([], [])
    for place, names in sorted(_walk(str(folder), frozenset())):
        inner = os.path.relpath(place, folder)
        for name in sorted(names):
            kind = listed.images if name.lower().endswith(ENDINGS) else listed.others
            kind.append(os.path.normpath(os.path.join(inner, name)))
    return listed


def is_hidden(path: str | PurePath) -> bool:
    """Say whether a file or folder, or one that it is in, is none of the user's own by its name."""
    parts = PurePath(path).parts
    return any(part == "__MACOSX" or (part[0] == "." and part != "..") for part in parts)


def is_text(name: str) -> bool:
    """Say whether a name can be written as UTF-8: not what stands for bytes that are none."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_text(path: str) -> None:
    """Refuse a path that is not UTF-8, which results could not name.

    Raises:
        UserError: if it is none.
    """
    if not is_text(path):
        raise UserError(f"{path!a}: its name is not UTF-8 text; rename it")


def _walk(folder: str, above: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    here = os.path.realpath(folder)
    if here in above:
        return
    inner: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_hidden(entry.name):
                    require_text(entry.path)
                    (inner if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}): give yourself access, or remove it"
        ) from None
    yield folder, files
    for name in inner:
        yield from _walk(os.path.join(folder, name), above | {here})
