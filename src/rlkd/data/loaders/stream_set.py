"""Labelled images that stay where they are until a batch needs them."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from rlkd import arguments
from rlkd.data.images import ImageReader
from rlkd.data.loaders.memory import check_single_class
from rlkd.data.seeding import generator_of
from rlkd.data.sources.folder import Source
from rlkd.data.sources.unreadable import Unreadable
from rlkd.data.transforms.resized_crop import Views
from rlkd.errors import UserError


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Raises:
        UserError: if a number is out of its range.
    """

    workers: int = 0
    """Processes that decode, one a processor at most; 0 for none but one's own."""
    prefetch: int = 2
    """Batches that each of them makes ahead; 1 or more."""
    unreadable: Unreadable = field(default_factory=Unreadable)
    """What is done about images that cannot be decoded."""

    def __post_init__(self) -> None:
        arguments.count("data.workers", self.workers, least=0, most=arguments.MOST_WORKERS)
        arguments.count("data.prefetch", self.prefetch, most=1000)


@dataclass(frozen=True)
class StreamSet:
    """Labelled images of any size that are decoded when they are needed.

    Raises:
        UserError: if a label is no index into the class names.
    """

    source: Source
    row: Int64[Tensor, " n"]
    """Where each image is in the source."""
    target: Int64[Tensor, " n"]
    """The class of each image: an index into `class_names`."""
    class_names: tuple[str, ...]
    """What the classes are called, in the order of their indices."""
    views: Views = field(default_factory=Views)
    reading: Reading = field(default_factory=Reading)
    reader: ImageReader = field(default_factory=ImageReader)
    view_count: int | None = None
    """How many views of each image training draws from; None for new ones in each epoch."""

    def __post_init__(self) -> None:
        arguments.count("data.views", self.view_count, most=arguments.MOST_VIEWS, optional=True)
        check_single_class(self.target)
        wrong = (self.target < 0) | (self.target >= self.num_classes)
        if wrong.any():
            row = int(wrong.int().argmax())
            raise UserError(
                f"{self.place(row)} has label {int(self.target[row])}, not 0 to "
                f"{self.num_classes - 1}: fix the label, or choose the data set, or the "
                "data.class_names, that have it"
            )

    @classmethod
    def all_of(cls, source: Source, class_names: tuple[str, ...], **options: Any) -> "StreamSet":
        """Return all images of a source; options are the other fields by name."""
        return cls(source, torch.arange(len(source)), source.target, class_names, **options)

    @property
    def num_classes(self) -> int:
        """How many classes there are, those without images included."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image as networks see it."""
        return self.reader.channels, *self.views.size

    def __len__(self) -> int:
        return len(self.target)

    def select(self, rows: Int64[Tensor, " rows"]) -> "StreamSet":
        """Return some rows, in the order given; nothing is read."""
        return replace(self, row=self.row[rows], target=self.target[rows])

    def read(self, row: int) -> UInt8[Tensor, "channels height width"]:
        """Return the pixels of one image, in its own size.

        Raises:
            UndecodableError: if it cannot be read.
        """
        return self.reader.read(partial(self.content, row), self.place(row))

    def content(self, row: int) -> bytes:
        """Return the content of one image's file.

        Raises:
            OSError: if it cannot be read.
        """
        return self.source.encoded(int(self.row[row]))

    def place(self, row: int) -> str:
        """Say where one image is."""
        return self.source.place(int(self.row[row]))

    def digests(self) -> list[bytes]:
        """Return 8 bytes for each image, by which it is recognised.

        They are of its class, its row in its source, and the last two names of its place; not of
        what it shows, which would take reading all of them.
        """
        return [
            hashlib.blake2b(
                f"{self.class_names[label]} {row} {_end_of(self.source.place(row))}".encode(
                    errors="surrogateescape"
                ),
                digest_size=8,
            ).digest()
            for row, label in zip(self.row.tolist(), self.target.tolist(), strict=True)
        ]

    def order(self, *, seed: int, epoch: int) -> Int64[Tensor, " n"]:
        """Return all rows in the order of an epoch, which depends on the seed and the epoch alone.

        Where rows lie in groups, those come in a new order, and the rows of a few of them are
        mixed at a time; else all rows are.
        """
        generator = generator_of(seed, epoch, 0)
        order = torch.randperm(len(self), generator=generator)
        starts = self.source.group_starts
        if starts is None:
            return order
        turn = torch.randperm(len(starts), generator=generator) // self.source.groups_at_once
        group = torch.searchsorted(starts, self.row, right=True) - 1
        return order[turn[group[order]].argsort(stable=True)]


def _end_of(place: str) -> str:
    """Return the last two names of a path: they stay the same where the data have moved."""
    return "/".join(place.split("/")[-2:])
