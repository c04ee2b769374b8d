"""Where the pixels of a set with boxes come from: a folder, or memory."""

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from rlkd.data.detection.annotation_checks import ImageTable
from rlkd.data.images import ImageReader, image_bytes, orientation
from rlkd.errors import UserError
from rlkd.reporting.escaping import printable

_SHOWN = 200


@runtime_checkable
class ImageSource(Protocol):
    """Where the pixels of a set come from."""

    def read(self, row: int) -> UInt8[Tensor, "3 height width"]:
        """Return the pixels of one image, 0 to 255."""
        ...


@dataclass(frozen=True, slots=True)
class FolderImages:
    """Images in files, decoded when they are asked for.

    Boxes and sizes are those of the upright image, as a viewer shows it: EXIF is obeyed.
    """

    folder: Path
    table: ImageTable
    reader: ImageReader = field(default_factory=ImageReader)

    def read(self, row: int) -> UInt8[Tensor, "3 height width"]:
        """Decode one image to RGB.

        Raises:
            UserError: if it cannot be decoded, or is not of the size that its annotations state.
        """
        file = self.folder / self.table.file_name[row]
        image = self.reader.read(partial(image_bytes, file), file)
        height, width = self.table.size[row].tolist()
        if image.shape[1:] != (height, width):
            found = orientation(image_bytes(file))
            upright = f" once upright (EXIF orientation {found})" if found > 1 else ""
            raise UserError(
                f"{file} is {image.shape[2]} x {image.shape[1]} pixels{upright}, but its "
                f"annotations state {width} x {height}: fix the annotation file, whose sizes and "
                "boxes are those of the upright image, or replace the image"
            )
        return image


@dataclass(frozen=True, slots=True)
class MemoryImages:
    """Images that were made in memory."""

    image: tuple[UInt8[Tensor, "3 _ _"], ...]

    def read(self, row: int) -> UInt8[Tensor, "3 height width"]:
        """Return the pixels of one image."""
        return self.image[row]


def check_files(folder: Path, annotations: Path, table: ImageTable) -> None:
    """Refuse a set whose image files are not all there, after one look into each folder.

    Raises:
        UserError: if the folder or a file is missing.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder} for the images of {annotations}: fix the path")
    present: dict[PurePath, set[str]] = {}
    missing: list[int] = []
    for row, name in enumerate(table.file_name):
        path = PurePath(name)
        if path.parent not in present:
            try:
                present[path.parent] = set(os.listdir(folder / path.parent))
            except (OSError, ValueError):  # of names that no folder can have
                present[path.parent] = set()
        if path.name not in present[path.parent]:
            missing.append(row)
    if missing:
        first = missing[0]
        named = f"{printable(table.file_name[first][:_SHOWN])} (image {int(table.identity[first])})"
        raise UserError(
            f"{len(missing)} of the {len(table.file_name)} images of {annotations}, first of them "
            f"{named}, are not in {folder}: complete the folder, correct the path, or "
            "remove them from the file"
        )
