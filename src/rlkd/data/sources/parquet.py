"""Encoded images out of Parquet shards in the columns of Hugging Face, a row group at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64
from torch import Tensor

from rlkd.data.parquet import IMAGES_AT_ONCE, MAX_BYTES, one_line, parquet_file, read_columns
from rlkd.data.sources.process_cache import ProcessCache
from rlkd.errors import UserError
from rlkd.text_files import parse_json

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label")
_OPEN_FILES = 8
_MAX_ROWS = 10_000_000
"""Of a shard."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where a shard has its images and labels."""

    image: str
    label: str


class ParquetSource:
    """Images in row groups; a reader holds the groups that it read last, encoded.

    A shuffled epoch goes through the row groups in a new order and mixes the images of
    `groups_at_once` of them, which is therefore also how many each worker keeps in memory.

    Args:
        files: the shards of one split.
        image_column: name of the column of images; None for the first of `image` and `img`.
        label_column: the same of labels, whole numbers; None for `label` or `fine_label`.
        groups_at_once: row groups that are read from at a time.

    Raises:
        UserError: if a shard cannot be read, or a column is missing or of another type.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        groups_at_once: int = 16,
    ) -> None:
        self.files = tuple(files)
        self.groups_at_once = groups_at_once
        self.class_names: tuple[str, ...] | None = None
        rows: list[int] = []
        places: list[tuple[int, int]] = []
        target: list[Tensor] = []
        self._columns: list[_Columns] = []
        for number, file in enumerate(self.files):
            with parquet_file(file) as opened:
                columns = _columns(file, opened, image_column, label_column)
                _check_groups(file, opened, columns.image)
                groups = range(opened.num_row_groups)
                counts = [opened.metadata.row_group(group).num_rows for group in groups]
                labels = _labels(file, opened, columns.label)
                names = _class_names(opened, columns.label)
            if min(counts, default=0) < 0 or sum(counts) != len(labels):
                raise UserError(
                    f"{file} has {len(labels)} labels for {sum(counts)} rows: download it again"
                )
            rows += counts
            places += [(number, group) for group in groups]
            target.append(labels)
            if number and names != self.class_names:
                raise UserError(
                    f"{file} names other classes than {self.files[0]}: take shards of one set"
                )
            self.class_names = names
            self._columns.append(columns)
        starts = np.concatenate([[0], np.cumsum(np.array(rows, dtype=np.int64))])
        self.target: Int64[Tensor, " rows"] = torch.cat(target)
        """The class of each row, as the shards say."""
        self._starts = starts
        self._places = places
        self._opened: ProcessCache[int, pq.ParquetFile] = ProcessCache(_OPEN_FILES)
        self._groups: ProcessCache[int, pa.Table] = ProcessCache(groups_at_once)

    @property
    def group_starts(self) -> Int64[Tensor, " groups"] | None:
        """The first row of each row group."""
        return torch.from_numpy(self._starts[:-1])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def encoded(self, row: int) -> bytes:
        """Return the content of one image's file.

        Raises:
            OSError: if its row group cannot be read, or it has no content.
        """
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        table = self._groups.get(group, partial(self._read, group))
        content = table.column(0)[row - int(self._starts[group])].as_py()
        if isinstance(content, dict):
            content = content.get("bytes")
        if not content or not isinstance(content, bytes):
            raise OSError("the row has no bytes")
        return content

    def place(self, row: int) -> str:
        """Say in which row of which shard an image is."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        number = self._places[group][0]
        first = next(at for at, place in enumerate(self._places) if place[0] == number)
        return f"{self.files[number]}, row {row - int(self._starts[first])}"

    def _read(self, group: int) -> pa.Table:
        number, inner = self._places[group]
        try:
            opened = self._opened.get(number, partial(pq.ParquetFile, self.files[number]))
            column = self._columns[number].image
            return read_columns(
                opened, [inner], [column], at_once=IMAGES_AT_ONCE, max_rows=_MAX_ROWS
            )
        except Exception as error:  # of damaged files pyarrow raises a dozen unrelated types
            raise OSError(one_line(error)) from error


def _columns(
    file: Path, opened: pq.ParquetFile, image_column: str | None, label_column: str | None
) -> _Columns:
    names = opened.schema_arrow.names
    found: list[str] = []
    for key, given, usual in (
        ("data.image_column", image_column, _IMAGE_COLUMNS),
        ("data.label_column", label_column, _LABEL_COLUMNS),
    ):
        wanted = usual if given is None else (given,)
        column = next((name for name in wanted if name in names), None)
        if column is None:
            raise UserError(
                f"{file} has no column {' or '.join(wanted)}, only {', '.join(names)}: give {key}"
            )
        found.append(column)
    columns = _Columns(*found)
    kind = opened.schema_arrow.field(columns.image).type
    whole = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not whole and not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise UserError(
            f"{file}: column {columns.image} is {kind}, not bytes of images: give data.image_column"
        )
    return columns


def _check_groups(file: Path, opened: pq.ParquetFile, column: str) -> None:
    """Refuse a file that declares row groups whose images are more than is unpacked at a time."""
    for group in range(opened.num_row_groups):
        held = opened.metadata.row_group(group)
        chunks = [held.column(each) for each in range(held.num_columns)]
        size = sum(
            each.total_uncompressed_size
            for each in chunks
            if f"{each.path_in_schema}.".startswith(f"{column}.")
        )
        if size > MAX_BYTES:
            raise UserError(
                f"{file}: row group {group} unpacks to {size:,} bytes, above {MAX_BYTES:,}: write "
                "the file again with a smaller row_group_size"
            )


def _labels(file: Path, opened: pq.ParquetFile, column: str) -> Int64[Tensor, " rows"]:
    if not pa.types.is_integer(opened.schema_arrow.field(column).type):
        raise UserError(f"{file}: column {column} holds no whole numbers: give data.label_column")
    groups = range(opened.num_row_groups)
    read = read_columns(opened, groups, [column], at_once=2**16, max_rows=_MAX_ROWS)
    labels = read.column(column)
    if labels.null_count:
        raise UserError(f"{file}: column {column} has no label in some rows: mend the file")
    return torch.from_numpy(labels.to_numpy().astype(np.int64))


def _class_names(opened: pq.ParquetFile, column: str) -> tuple[str, ...] | None:
    """Return what Hugging Face's description of the columns calls the classes."""
    described = (opened.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        names = parse_json(described or b"{}")["info"]["features"][column]["names"]
        if isinstance(names, dict):  # of some older files: {"0": "cat", ...}
            names = [names[key] for key in sorted(names, key=int)]
        if not isinstance(names, list):
            return None
        return tuple(str(name).encode().decode() for name in names)
    except (ValueError, KeyError, TypeError):
        return None
