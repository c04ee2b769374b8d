"""Encoded images out of Parquet shards in the columns of Hugging Face, a row group at a time."""

import errno
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64
from torch import Tensor

from rlkd.data.sources.process_cache import ProcessCache
from rlkd.errors import UserError, one_line
from rlkd.regular_files import open_regular
from rlkd.text_files import parse_json

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")

_OPEN_FILES = 8
_MAX_ROWS = 10_000_000
"""Of a shard."""
_MAX_BYTES = 2**30
"""Of what is unpacked at a time; a few bytes of a file may stand for any number of them."""
_IMAGES_AT_ONCE = 8
"""As many rows are unpacked before their bytes are counted."""


class ParquetSource:
    """Images in row groups; a reader holds the groups that it read last, encoded.

    A shuffled epoch goes through the row groups in a new order and mixes the images of
    `groups_at_once` of them, which is therefore also how many each worker keeps in memory.

    Args:
        files: the shards of one split.
        image_columns: names of the column of images; the first that a shard has is read.
        label_columns: the same of labels, whole numbers.
        groups_at_once: row groups that are read from at a time.

    Raises:
        UserError: if a shard cannot be read, or a column is missing or of another type.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        image_columns: Sequence[str] = IMAGE_COLUMNS,
        label_columns: Sequence[str] = LABEL_COLUMNS,
        groups_at_once: int = 16,
    ) -> None:
        self.files = tuple(files)
        self.groups_at_once = groups_at_once
        self.class_names: tuple[str, ...] | None = None
        rows: list[int] = []
        places: list[tuple[int, int]] = []
        target: list[Tensor] = []
        self._columns: list[str] = []
        for number, file in enumerate(self.files):
            with _parquet_file(file) as opened:
                image = _column(file, opened, "data.image_column", image_columns)
                label = _column(file, opened, "data.label_column", label_columns)
                _check_images(file, opened, image)
                _check_groups(file, opened, image)
                groups = range(opened.num_row_groups)
                counts = [opened.metadata.row_group(group).num_rows for group in groups]
                labels = _labels(file, opened, label)
                names = _class_names(opened, label)
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
            self._columns.append(image)
        starts = np.concatenate([[0], np.cumsum(np.array(rows, dtype=np.int64))])
        self._first = np.cumsum([0, *map(len, target[:-1])])
        self.target: Int64[Tensor, " rows"] = torch.cat(target)
        """The class of each row, as the shards say."""
        self._starts = starts
        self._places = places
        self._opened: ProcessCache[int, pq.ParquetFile] = ProcessCache(_OPEN_FILES)
        self._groups: ProcessCache[int, pa.ChunkedArray] = ProcessCache(groups_at_once)

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
        group = int(self._starts.searchsorted(row, side="right")) - 1
        held = self._groups.get(group, partial(self._read, group))
        content = held[row - int(self._starts[group])].as_py()
        if not content:
            raise OSError("the row has no bytes")
        return content

    def require_labels(self, usual: str) -> None:
        """Refuse rows without a label, which Hugging Face writes as -1.

        Args:
            usual: an option that gives a labelled split, for the message.

        Raises:
            UserError: if there is one.
        """
        bare = (self.target == -1).nonzero()
        if len(bare):
            raise UserError(
                f"{self.place(int(bare[0]))} has no label (-1): give a labelled split, such as "
                f"{usual}"
            )

    def place(self, row: int) -> str:
        """Say in which row of which shard an image is."""
        number = int(self._first.searchsorted(row, side="right")) - 1
        return f"{self.files[number]}, row {row - int(self._first[number])}"

    def _read(self, group: int) -> pa.ChunkedArray:
        number, inner = self._places[group]
        try:
            opened = self._opened.get(number, partial(pq.ParquetFile, self.files[number]))
            read = _read_column(opened, [inner], self._columns[number], at_once=_IMAGES_AT_ONCE)
            if pa.types.is_struct(read.type):
                return read.flatten()[read.type.get_field_index("bytes")]
            return read
        except Exception as error:  # of damaged files pyarrow raises a dozen unrelated types
            raise OSError(_said(error)) from error


@contextmanager
def _parquet_file(file: Path) -> Generator[pq.ParquetFile]:
    """Open a regular file as Parquet, and report what is wrong with it.

    Raises:
        UserError: if it cannot be opened, or read while it is open.
    """
    try:
        open_regular(file).close()
        with pq.ParquetFile(file) as opened:
            yield opened
    except UserError:
        raise
    except Exception as error:  # of damaged files pyarrow raises a dozen unrelated types
        raise UserError(
            f"{file} cannot be read as Parquet ({_said(error)}): download it again"
        ) from error


def _read_column(
    opened: pq.ParquetFile, groups: Sequence[int], column: str, *, at_once: int
) -> pa.ChunkedArray:
    """Unpack a column of some row groups, unless it unpacks to more than memory is for.

    Args:
        opened: the file.
        groups: numbers of the row groups.
        column: its name.
        at_once: rows that are unpacked before their bytes are counted.

    Raises:
        OSError: if there are more rows, or more than 1 GiB.
    """
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in opened.iter_batches(
        at_once, row_groups=list(groups), columns=[column], use_threads=False
    ):
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows > _MAX_ROWS or size > _MAX_BYTES:
            fault = f"it unpacks to more than {_MAX_ROWS:,} rows or {_MAX_BYTES:,} bytes"
            raise OSError(errno.EFBIG, fault)
        batches.append(batch)
    schema = pa.schema([opened.schema_arrow.field(column)])
    return pa.Table.from_batches(batches, schema=schema).column(0)


def agreed_names(
    train: ParquetSource, test: ParquetSource, given: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return the class names: those given, or else those that both splits name.

    Raises:
        UserError: if splits name different classes, or others than given, or nothing names them.
    """
    named = train.class_names
    one_unnamed = named is None or test.class_names is None
    if named != test.class_names and not (given is not None and one_unnamed):
        raise UserError(
            f"{train.files[0]} and {test.files[0]} name different classes: take shards of one set"
        )
    named = named or test.class_names
    names = given or named
    if names is None:
        raise UserError(
            f"{train.files[0]} does not name its classes: give data.class_names, a file of one "
            "name a line or their number"
        )
    if named is not None and len(named) != len(names):
        raise UserError(
            f"data.class_names gives {len(names)} classes, the shards {len(named)}: name each class"
        )
    if named is not None and named != names and set(named) == set(names):
        row = next(row for row, name in enumerate(named) if name != names[row])
        raise UserError(
            f"data.class_names has another order than the shards: class {row} is {names[row]}, of "
            f"the shards {named[row]}: name the classes in the order of their labels"
        )
    return names


def _column(file: Path, opened: pq.ParquetFile, key: str, wanted: Sequence[str]) -> str:
    names = opened.schema_arrow.names
    column = next((name for name in wanted if name in names), None)
    if column is None:
        raise UserError(
            f"{file} has no column {' or '.join(wanted)}, only {', '.join(names)}: give {key} "
            "(data=parquet)"
        )
    return column


def _check_images(file: Path, opened: pq.ParquetFile, column: str) -> None:
    kind = opened.schema_arrow.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
        raise UserError(
            f"{file}: column {column} is {kind}, not bytes of images: give data.image_column "
            "(data=parquet)"
        )


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
        if size > _MAX_BYTES:
            raise UserError(
                f"{file}: row group {group} unpacks to {size:,} bytes, above {_MAX_BYTES:,}: write "
                "the file again with a smaller row_group_size"
            )


def _labels(file: Path, opened: pq.ParquetFile, column: str) -> Int64[Tensor, " rows"]:
    if not pa.types.is_integer(opened.schema_arrow.field(column).type):
        raise UserError(f"{file}: column {column} holds no whole numbers: give data.label_column")
    groups = range(opened.num_row_groups)
    labels = _read_column(opened, groups, column, at_once=2**16)
    if labels.null_count:
        row = labels.is_null().index(True).as_py()
        raise UserError(f"{file}, row {row} has no {column}: fix the file")
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


def _said(error: Exception) -> str:
    """Return the text of an error, without the number of an operating system's."""
    return one_line(getattr(error, "strerror", None) or error)
