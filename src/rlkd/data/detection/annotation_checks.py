"""Annotation files in COCO's format: read, checked, and kept as columns."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from rlkd.data.sources.listing import is_text
from rlkd.errors import UserError
from rlkd.regular_files import read_regular
from rlkd.text_files import parse_json, shown

_FORMAT = "give a file of COCO's detection format (images, annotations with bbox, categories)"
_MAX_BYTES = 8 * 2**30
"""COCO's largest has half a GiB, other sets of its format have a few."""


@dataclass(frozen=True, slots=True)
class ImageTable:
    """The images that an annotation file lists, in its order."""

    identity: Int64[Tensor, " images"]
    """COCO's id of each image."""
    file_name: tuple[str, ...]
    """Where each lies, from the image folder on."""
    size: Int64[Tensor, "images 2"]
    """Height and width in pixels."""

    def select(self, rows: Int64[Tensor, " rows"]) -> "ImageTable":
        """Return some images, in the order given."""
        names = tuple(self.file_name[row] for row in rows.tolist())
        return ImageTable(self.identity[rows], names, self.size[rows])


@dataclass(frozen=True, slots=True)
class AnnotationTable:
    """Annotated objects, those of one image side by side and in the file's order."""

    identity: Int64[Tensor, " objects"]
    """COCO's id of each annotation."""
    row: Int64[Tensor, " objects"]
    """Which image each is in: a row of the image table, ascending."""
    category_id: Int64[Tensor, " objects"]
    """COCO's id of each object's category."""
    box: Float64[Tensor, "objects 4"]
    """Left, top, width and height in pixels, as the file has them; the sides are 0 or more."""
    area: Float64[Tensor, " objects"]
    """In square pixels: of the object itself where the file has it, or else of the box."""
    crowd: Bool[Tensor, " objects"]
    """Whether the box holds many objects, so that none of them is to be learnt."""

    def select(self, objects: Tensor, row: Int64[Tensor, " kept"]) -> "AnnotationTable":
        """Return some objects, by mask or index, with the rows that their images now have."""
        return AnnotationTable(
            identity=self.identity[objects],
            row=row,
            category_id=self.category_id[objects],
            box=self.box[objects],
            area=self.area[objects],
            crowd=self.crowd[objects],
        )


@dataclass(frozen=True, slots=True)
class _Entries:
    """One of a file's lists."""

    file: Path
    key: str
    noun: str
    listed: list[dict[str, Any]]

    def column(self, field: str, fits: Callable[[object], bool], expected: str) -> list[Any]:
        """Return one field of all entries.

        Raises:
            UserError: if an entry lacks it, or its value does not fit.
        """
        values = [entry.get(field) for entry in self.listed]
        for index, value in enumerate(values):
            if fits(value):
                continue
            entry = self.listed[index]
            named = f"number {index + 1} of the {self.key}"
            if _is_whole(entry.get("id")):
                named = f"{self.noun} {entry['id']}"
            found = f"{field} {shown(value)}" if field in entry else f"no {field}"
            raise UserError(f"{self.file}: {named} has {found}: give {expected}")
        return values

    def identities(self) -> list[int]:
        """Return the ids, whole numbers."""
        return self.column("id", _is_whole, "a whole number")

    def unique_identities(self) -> list[int]:
        """Return the ids.

        Raises:
            UserError: if one is repeated.
        """
        identities = self.identities()
        identity, count = Counter(identities).most_common(1)[0]
        if count > 1:
            raise UserError(
                f"{self.file}: {count} {self.key} have the id {identity}: give each its own"
            )
        return identities


def read_tables(file: Path) -> tuple[ImageTable, AnnotationTable, dict[int, str]]:
    """Read an annotation file: its images, its objects, and the categories' names by their ids.

    Segmentations are dropped while the file is parsed. Names that several categories share get
    their ids added. Categories come in ascending order of their ids.

    Raises:
        UserError: if the file is missing, is no JSON or not of the format, if an id is repeated or
            unknown, or if a box is no box or lies outside its image.
    """
    content = _read_json(file)
    images = _images(_entries(file, content, "images", "image"))
    categories = _categories(_entries(file, content, "categories", "category"))
    entries = _entries(file, content, "annotations", "annotation")
    return images, _annotations(entries, images, categories), categories


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content: Any = parse_json(read_regular(file, _MAX_BYTES), pairs=_without_segmentation)
    except FileNotFoundError as error:
        raise UserError(f"no annotation file {file}: fix the path") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): {_FORMAT}") from error
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}): {_FORMAT}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is a JSON {type(content).__name__}, not an object: {_FORMAT}")
    return content


def _without_segmentation(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    entry.pop("segmentation", None)
    return entry


def _entries(file: Path, content: dict[str, Any], key: str, noun: str) -> _Entries:
    listed = content.get(key)
    if listed is None:
        raise UserError(f"{file} has no {key}: {_FORMAT}")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UserError(f"{file}: {key} is no list of objects: {_FORMAT}")
    if not listed and key != "annotations":
        raise UserError(f"{file} lists no {key}: add some, or give another file")
    return _Entries(file, key, noun, listed)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and is_text(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e20


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _images(entries: _Entries) -> ImageTable:
    identities = entries.unique_identities()
    names = entries.column("file_name", _is_name, "its path from the image folder on")
    sides = [entries.column(key, _is_side, "its pixels, 1 or more") for key in ("height", "width")]
    return ImageTable(torch.tensor(identities), tuple(names), torch.tensor(sides).T.contiguous())


def _categories(entries: _Entries) -> dict[int, str]:
    identities = entries.unique_identities()
    names: list[str] = entries.column("name", _is_name, "a text")
    count = Counter(names)
    return {
        identity: name if count[name] == 1 else f"{name} (id {identity})"
        for identity, name in sorted(zip(identities, names, strict=True))
    }


def _annotations(
    entries: _Entries, images: ImageTable, categories: dict[int, str]
) -> AnnotationTable:
    row_of = {identity: row for row, identity in enumerate(images.identity.tolist())}
    identities = entries.identities()
    parents = entries.column(
        "image_id", lambda one: _is_whole(one) and one in row_of, "the id of a listed image"
    )
    kinds = entries.column(
        "category_id", lambda one: _is_whole(one) and one in categories, "that of a listed category"
    )
    boxes = entries.column("bbox", _is_box, "left, top, width and height in pixels")
    for entry, box in zip(entries.listed, boxes, strict=True):
        entry.setdefault("iscrowd", 0)
        entry.setdefault("area", box[2] * box[3])
    areas = entries.column("area", _is_number, "square pixels, or leave it out")
    crowds = entries.column("iscrowd", lambda one: one in (0, 1), "0 or 1")
    row = torch.tensor([row_of[identity] for identity in parents], dtype=torch.int64)
    table = AnnotationTable(
        identity=torch.tensor(identities, dtype=torch.int64),
        row=row,
        category_id=torch.tensor(kinds, dtype=torch.int64),
        box=torch.tensor(boxes, dtype=torch.float64).view(-1, 4),
        area=torch.tensor(areas, dtype=torch.float64),
        crowd=torch.tensor(crowds, dtype=torch.bool),
    )
    _check_boxes(entries.file, table, images)
    order = row.argsort(stable=True)
    return table.select(order, row[order])


def _check_boxes(file: Path, table: AnnotationTable, images: ImageTable) -> None:
    corner, side = table.box.split(2, dim=1)
    size = images.size[table.row].flip(1)  # width and height

    def refuse(wrong: Tensor, why: str) -> NoReturn:
        first = int(wrong.int().argmax())
        image = int(table.row[first])
        height, width = images.size[image].tolist()
        raise UserError(
            f"{file}: annotation {int(table.identity[first])} of image "
            f"{int(images.identity[image])} ({width} x {height} pixels) has bbox "
            f"{table.box[first].tolist()}, {why}"
        )

    negative = (side < 0).any(dim=1)
    if negative.any():
        refuse(negative, "whose width or height is negative: give left, top, width, height")
    beyond = (corner >= size) | (corner + side <= 0)
    outside = beyond.any(dim=1) & (side > 0).all(dim=1)
    if outside.any():
        refuse(outside, "wholly outside the image: fix or remove it (boxes are in pixels)")
