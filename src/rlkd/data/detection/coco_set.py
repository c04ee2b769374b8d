"""Images with the boxes of their objects, as COCO lists them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from rlkd.data.detection.annotation_checks import AnnotationTable, ImageTable
from rlkd.data.detection.images import ImageSource
from rlkd.errors import UserError
from rlkd.types import Boxes

_SMALLEST_SIDE = 0.01
"""Pixels; a box with a shorter side cannot be learnt: float32 would lose it when it is scaled."""

_HIGHEST_KEPT = 10_000
"""Of the categories' ids; every number up to the highest becomes a class of the detector."""


class CocoSet:
    """Images with the boxes of their objects.

    Boxes that stick out of their image are clipped. Left out of what is to be learnt, but kept in
    `ground_truth`, are crowds and boxes without area (COCO's own training images have two).

    Args:
        source: the pixels; its rows are those of `images`, or of `source_row`.
        images: the images' ids, names and sizes.
        annotations: the objects.
        categories: the categories' names by their ids.
        keep_ids: whether labels are the categories' ids, as weights published for COCO have them;
            otherwise they are 1, 2, ... in the order of the ids.
        source_row: the row of each image in `source`; None for one after the other.

    Raises:
        UserError: if ids are kept and one is below 1 (0 is the background) or above 10,000.
    """

    def __init__(
        self,
        source: ImageSource,
        images: ImageTable,
        annotations: AnnotationTable,
        categories: dict[int, str],
        *,
        keep_ids: bool = False,
        source_row: Int64[Tensor, " images"] | None = None,
    ) -> None:
        if keep_ids and min(categories) < 1:
            first = min(categories)
            raise UserError(
                f"category {categories[first]} has the id {first}, which cannot be kept as a label "
                "(0 is the background): number categories from 1, or give keep_ids=false"
            )
        if keep_ids and max(categories) > _HIGHEST_KEPT:
            last = max(categories)
            raise UserError(
                f"category {categories[last]} has the id {last}, and ids that are kept make a "
                f"class of every number up to it, {_HIGHEST_KEPT} at most: give keep_ids=false"
            )
        self.categories = dict(sorted(categories.items()))
        self.keep_ids = keep_ids
        listed = range(1, max(categories) + 1) if keep_ids else self.categories
        self.category_ids: tuple[int, ...] = tuple(listed)
        self.class_names = tuple(categories.get(one, f"unused {one}") for one in listed)
        self._source = source
        self._source_row = torch.arange(len(images.identity)) if source_row is None else source_row
        self._images = images
        self._annotations = annotations
        box = _clipped(annotations.box, images.size[annotations.row])
        has_area = (box[:, 2:] - box[:, :2] >= _SMALLEST_SIDE).all(dim=1)
        learnt = has_area & ~annotations.crowd
        label = torch.searchsorted(torch.tensor(self.category_ids), annotations.category_id) + 1
        self._box, self._label = box[learnt], label[learnt]
        rows = torch.arange(len(images.identity) + 1)
        self._first = torch.searchsorted(annotations.row[learnt].contiguous(), rows)
        self._without_area = annotations.identity[~has_area & ~annotations.crowd]

    def __len__(self) -> int:
        return len(self._images.identity)

    @property
    def num_classes(self) -> int:
        """How many classes a detector tells apart, the background included."""
        return len(self.class_names) + 1

    @property
    def output_names(self) -> tuple[str, ...]:
        """What a detector's outputs are called: the background, then the classes."""
        return "background", *self.class_names

    @property
    def has_objects(self) -> bool:
        """Whether there is anything to learn or to find."""
        return len(self._box) > 0

    @property
    def sizes(self) -> Int64[Tensor, "images 2"]:
        """Height and width of every image in pixels."""
        return self._images.size

    @property
    def without_area(self) -> tuple[int, ...]:
        """The ids of the annotations that are left out of learning for want of area."""
        return tuple(self._without_area.tolist())

    def image(self, row: int) -> UInt8[Tensor, "3 height width"]:
        """Return the pixels of one image, RGB in 0 to 255.

        Raises:
            UserError: if its file is corrupt or of another size.
        """
        return self._source.read(int(self._source_row[row]))

    def size(self, row: int) -> tuple[int, int]:
        """Return height and width of one image in pixels."""
        height, width = self._images.size[row].tolist()
        return height, width

    def boxes(self, row: int) -> Boxes:
        """Return what is to be learnt in one image, nothing where it is empty."""
        here = slice(int(self._first[row]), int(self._first[row + 1]))
        return Boxes(self._box[here].clone(), self._label[here].clone())

    def content(self, row: int) -> bytes:
        """Return the pixels and the boxes of one image."""
        boxes = self.boxes(row)
        held = (self.image(row), boxes.box, boxes.label)
        return b"".join(each.contiguous().numpy().tobytes() for each in held)

    def image_id(self, row: int) -> int:
        """Return COCO's id of one image."""
        return int(self._images.identity[row])

    def file_name(self, row: int) -> str:
        """Return where one image lies in its folder."""
        return self._images.file_name[row]

    def ground_truth(self) -> dict[str, Any]:
        """Return these images' annotations in COCO's format, as the file has them, crowds too.

        Annotations keep their ids, unless one is repeated or below 1, where they are numbered
        anew: pycocotools takes an object with the id 0 for none.
        """
        found = self._annotations
        identity = found.identity
        if len(identity) and (int(identity.min()) < 1 or len(identity.unique()) < len(identity)):
            identity = torch.arange(1, len(identity) + 1)
        size, names = self._images.size, self._images.file_name
        columns = (
            identity,
            self._images.identity[found.row],
            found.category_id,
            found.box,
            found.area,
            found.crowd.int(),
        )
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        listed = zip(self._images.identity.tolist(), names, size.tolist(), strict=True)
        return {
            "info": {},
            "licenses": [],
            "images": [
                {"id": one, "file_name": name, "height": height, "width": width}
                for one, name, (height, width) in listed
            ],
            "annotations": [
                dict(zip(keys, values, strict=True))
                for values in zip(*(column.tolist() for column in columns), strict=True)
            ],
            "categories": [{"id": one, "name": name} for one, name in self.categories.items()],
        }

    def select(self, rows: Int64[Tensor, " rows"] | Sequence[int]) -> "CocoSet":
        """Return some images, none of them twice, in the order given."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        new_row = torch.full((len(self),), -1)
        new_row[rows] = torch.arange(len(rows))
        row = new_row[self._annotations.row]
        objects = (row >= 0).nonzero().flatten()
        objects = objects[row[objects].argsort(stable=True)]
        return CocoSet(
            self._source,
            self._images.select(rows),
            self._annotations.select(objects, row[objects]),
            self.categories,
            keep_ids=self.keep_ids,
            source_row=self._source_row[rows],
        )


def _clipped(box: Tensor, size: Int64[Tensor, "objects 2"]) -> Float32[Tensor, "objects 4"]:
    """Turn left, top, width, height into corners within the image."""
    limit = size.flip(1).double()
    low = box[:, :2].clamp(min=0)
    high = box[:, :2] + box[:, 2:]
    return torch.cat([low.minimum(limit), high.clamp(min=0).minimum(limit)], dim=1).float()
