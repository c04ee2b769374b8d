"""Encoded images by row, and those of a folder with one subfolder a class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from rlkd.data.images import image_bytes
from rlkd.data.sources.listing import ENDINGS, is_hidden, list_images, require_text
from rlkd.errors import UserError, notice

_SHOWN = 3


@runtime_checkable
class Source(Protocol):
    """Encoded images by row; a copy of one in another process reads the same."""

    @property
    def target(self) -> Int64[Tensor, " rows"]:
        """The class of each row."""
        ...

    @property
    def group_starts(self) -> Int64[Tensor, " groups"] | None:
        """The first row of each group of rows that lie together; None where any is as near."""
        ...

    @property
    def groups_at_once(self) -> int:
        """How many groups are read from at a time."""
        ...

    def __len__(self) -> int:
        """Return how many rows there are."""
        ...

    def encoded(self, row: int) -> bytes:
        """Return the content of one image's file.

        Raises:
            OSError: if it cannot be read.
        """
        ...

    def place(self, row: int) -> str:
        """Say where one image is."""
        ...


class Names:
    """Many strings in two arrays, which processes share without copies.

    Args:
        names: what to hold.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        self._end: NDArray[np.int64] = lengths.cumsum()
        self._text: NDArray[np.uint8] = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._end)

    def __getitem__(self, row: int) -> str:
        start = int(self._end[row - 1]) if row else 0
        return os.fsdecode(self._text[start : int(self._end[row])].tobytes())


class FolderSource:
    """Image files, one a row.

    Args:
        root: the folder that names are relative to.
        names: of the files.
        target: the class of each file.
    """

    group_starts: Int64[Tensor, " groups"] | None = None
    groups_at_once = 1

    def __init__(self, root: Path, names: Sequence[str], target: Int64[Tensor, " files"]) -> None:
        self.root, self.target = root, target
        self._names = Names(names)

    def __len__(self) -> int:
        return len(self._names)

    def encoded(self, row: int) -> bytes:
        """Return the content of one file.

        Raises:
            OSError: if it is no regular file, or cannot be read.
        """
        return image_bytes(self.place(row))

    def place(self, row: int) -> str:
        """Return the path of one file."""
        return os.path.join(self.root, self._names[row])


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the subfolders of a split, sorted: its classes. Hidden ones are left out.

    Raises:
        UserError: if the folder is missing, or has none.
    """
    if not folder.parent.is_dir():
        raise UserError(f"no folder {folder.parent.absolute()}: fix data.root")
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}: put the images into {folder}/<class>/, or fix data.root"
        )
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name)
    )
    for name in names:
        require_text(name)
    if not names:
        raise UserError(f"{folder} has no class folders: put the images into {folder}/<class>/")
    return tuple(names)


def list_splits(train: Path, *tests: Path) -> tuple[tuple[str, ...], list[FolderSource]]:
    """List a folder of training images, and those of test images if there are any.

    Returns:
        The classes, sorted, and the images of each folder.

    Raises:
        UserError: if a folder is missing, a class has no images, or one folder lacks a class.
    """
    names = class_folders(train)
    for test in tests:
        odd = sorted(set(names) ^ set(class_folders(test)))
        if odd:
            has, lacks = (train, test) if odd[0] in names else (test, train)
            raise UserError(
                f"class {odd[0]} is in {has} but not in {lacks}: both need the same classes"
            )
    return names, [list_folder(each, names) for each in (train, *tests)]


def list_folder(folder: Path, class_names: Sequence[str]) -> FolderSource:
    """List `folder/<class>/**/<image>` in the order of torchvision's `ImageFolder`.

    A warning says how many other files there are, but for hidden ones.

    Args:
        folder: of one split.
        class_names: the subfolders, in the order of their labels.

    Raises:
        UserError: if a class has no images.
    """
    names: list[str] = []
    others: list[str] = []
    count: list[int] = []
    for name in class_names:
        listed = list_images(folder / name)
        if not listed.images:
            raise UserError(
                f"{folder / name} has no images ({' '.join(ENDINGS)}): add some, or remove the "
                "folder"
            )
        names += [os.path.join(name, each) for each in listed.images]
        others += [os.path.join(name, each) for each in listed.others]
        count.append(len(listed.images))
    if others:
        first, more = ", ".join(others[:_SHOWN]), ", ..." if len(others) > _SHOWN else ""
        notice(
            f"left out of {folder}, not having an image's ending ({' '.join(ENDINGS)}): "
            f"{len(others)} of its files, {first}{more}"
        )
    target = torch.arange(len(count)).repeat_interleave(torch.tensor(count))
    return FolderSource(folder, names, target)
