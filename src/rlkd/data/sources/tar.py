"""Encoded images out of WebDataset's tar shards, each read where its header says it begins."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from rlkd.data.images import MAX_BYTES
from rlkd.data.sources.listing import ENDINGS, is_hidden
from rlkd.data.sources.process_cache import ProcessCache
from rlkd.data.sources.tar_headers import members
from rlkd.errors import UserError
from rlkd.regular_files import open_regular
from rlkd.text_files import parse_json

_OPEN_FILES = 64
_SHOWN = 80
_LABEL_BYTES = 2**20
"""Of a cls or json file."""
_DIGITS = 19
"""Above these a number is no class's."""


@dataclass(slots=True)
class _Sample:
    """What a shard holds under one key."""

    key: str
    image: tuple[int, int] | None = None
    """Where its image begins in the shard, and how many bytes it has."""
    label: bytes | None = None
    """As it is written."""
    in_json: bool = False

    @property
    def name(self) -> str:
        """Its key, for messages."""
        return _shown(self.key)


@dataclass(slots=True)
class _Index:
    """The samples of a split, by shard."""

    shard: list[int] = field(default_factory=list[int])
    begin: list[int] = field(default_factory=list[int])
    size: list[int] = field(default_factory=list[int])
    target: list[int] = field(default_factory=list[int])


class _Opened:
    """A file that is closed once nobody reads from it."""

    descriptor = -1
    """Of one that could not be opened."""

    def __init__(self, file: Path) -> None:
        self.descriptor = os.open(file, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class TarSource:
    """Images in tar shards as WebDataset lays them out: `key.jpg` beside `key.cls` or `key.json`.

    All headers are read once; what is kept of them is 20 bytes an image. A shuffled epoch goes
    through the shards in a new order and mixes the images of `groups_at_once` of them.

    Args:
        files: the shards of one split.
        class_names: of the set; a label is a class's number or its name. Digits are a number in a
            cls file, and in a json file, as a text, a name if there is one.
        label_key: the entry of a json file that holds the label.
        groups_at_once: shards that are read from at a time.

    Raises:
        UserError: if a shard cannot be read, is compressed or damaged, or has a sample without
            label, or with no image or several.
    """

    def __init__(
        self,
        files: Sequence[Path],
        class_names: Sequence[str],
        *,
        label_key: str = "label",
        groups_at_once: int = 16,
    ) -> None:
        self.files = tuple(files)
        self.groups_at_once = groups_at_once
        number_of = {name: number for number, name in enumerate(class_names)}
        index, starts = _Index(), list[int]()
        for shard, file in enumerate(self.files):
            starts.append(len(index.shard))
            for sample in _samples(file):
                if sample.image is None:
                    raise UserError(
                        f"{file}: {sample.name} has no image ({' '.join(ENDINGS)}): fix the shard"
                    )
                index.shard.append(shard)
                index.begin.append(sample.image[0])
                index.size.append(sample.image[1])
                index.target.append(_label(file, sample, label_key, number_of))
        self._starts: Int64[Tensor, " shards"] = torch.tensor(starts)
        self._shard: NDArray[np.int32] = np.array(index.shard, dtype=np.int32)
        self._begin: NDArray[np.int64] = np.array(index.begin, dtype=np.int64)
        self._size: NDArray[np.int64] = np.array(index.size, dtype=np.int64)
        self.target: Int64[Tensor, " rows"] = torch.tensor(index.target, dtype=torch.int64)
        """The class of each row."""
        self._opened: ProcessCache[int, _Opened] = ProcessCache(_OPEN_FILES)

    @property
    def group_starts(self) -> Int64[Tensor, " groups"] | None:
        """The first row of each shard."""
        return self._starts

    def __len__(self) -> int:
        return len(self._shard)

    def encoded(self, row: int) -> bytes:
        """Return the content of one image's file.

        Raises:
            OSError: if the shard cannot be read, or the image is larger than any.
        """
        shard, size = int(self._shard[row]), int(self._size[row])
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, above {MAX_BYTES:,}")
        opened = self._opened.get(shard, lambda: _Opened(self.files[shard]))
        return os.pread(opened.descriptor, size, int(self._begin[row]))

    def place(self, row: int) -> str:
        """Say where in which shard an image is."""
        shard = int(self._shard[row])
        return f"{self.files[shard]}, image {row - int(self._starts[shard])}"


def _samples(file: Path) -> Iterator[_Sample]:
    """Read a shard's headers; files that follow one another under the same key are one sample."""
    sample: _Sample | None = None
    try:
        with open_regular(file) as opened:
            for member in members(opened):
                named = re.fullmatch(r"((?:.*/)?[^/.]+)\.([^/]*)", member.name)
                if named is None or is_hidden(member.name):
                    continue
                key, suffix = named[1], named[2].lower()
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = _Sample(key)
                if f".{suffix}" in ENDINGS:
                    if sample.image is not None:
                        raise UserError(f"{file}: {sample.name} has two images: fix the shard")
                    sample.image = (member.begin, member.size)
                elif suffix == "cls" or (suffix == "json" and sample.label is None):
                    if member.size > _LABEL_BYTES:
                        raise UserError(
                            f"{file}: {_shown(member.name)} has {member.size:,} bytes, above the "
                            f"{_LABEL_BYTES:,} of a label: fix the shard"
                        )
                    sample.label = os.pread(opened.fileno(), member.size, member.begin)
                    sample.in_json = suffix == "json"
    except ValueError as error:
        raise UserError(
            f"{file} is no uncompressed tar file, or is cut short ({error}): unpack or download it "
            "again"
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): replace it") from error
    if sample is not None:
        yield sample


def _shown(text: str) -> str:
    """Shorten what somebody wrote, and put it in one line."""
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return text if text.isprintable() else ascii(text)


def _label(file: Path, sample: _Sample, label_key: str, number_of: dict[str, int]) -> int:
    given: object = sample.label
    try:
        if sample.label is not None:
            given = sample.label.decode().strip()
            if sample.in_json:
                given = parse_json(given)[label_key]
    except (ValueError, KeyError, TypeError):
        given = None
    if not isinstance(given, str | int | float):
        raise UserError(
            f"{file}: {sample.name} has no label: fix the shard, or give data.label_key, the entry "
            "of its json file"
        )
    name = str(given)
    by_number = name.isdecimal() and not (sample.in_json and isinstance(given, str))
    if name in number_of and not by_number:
        return number_of[name]
    if name.isdecimal() and len(name) < _DIGITS and int(name) < len(number_of):
        return int(name)
    raise UserError(
        f"{file}: {sample.name} has the label {_shown(name)}, not a class or its number, 0 to "
        f"{len(number_of) - 1}: fix the shard, data.class_names or data.label_key"
    )
