"""Images out of Parquet files in the columns of Hugging Face."""

import errno
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from rlkd.data.images import ImageReader
from rlkd.data.loaders.memory import ImageSet
from rlkd.errors import UserError
from rlkd.regular_files import open_regular

_MAX_ROWS = 1_000_000
"""Of a file that is decoded into memory."""
MAX_BYTES = 2**30
"""Of what is unpacked at a time; a few bytes of a file may stand for any number of them."""
IMAGES_AT_ONCE = 8
"""As many rows are unpacked before their bytes are counted."""


def read_parquet(
    files: Sequence[Path],
    *,
    label_columns: Sequence[str],
    class_names: tuple[str, ...],
    image_size: int,
) -> ImageSet:
    """Read the files of one split, in their order, and decode their images to RGB.

    Args:
        files: the split's files, one or more.
        label_columns: names of the class column; the first that a file has is read.
        class_names: the classes; labels are 0 to one fewer than there are.
        image_size: height and width that every image must have, in pixels.

    Raises:
        UserError: if a shard is absent, a file cannot be read, a column is missing, an image is
            corrupt or of another size, or a label is out of range.
    """
    check_shards(files)
    parts = [_read_file(file, label_columns, len(class_names), image_size) for file in files]
    return ImageSet(
        image=torch.cat([image for image, _ in parts]),
        target=torch.cat([target for _, target in parts]),
        class_names=class_names,
    )


def check_shards(files: Sequence[Path]) -> None:
    """Refuse a split whose names tell of more files (`-00000-of-00004`) than there are.

    Raises:
        UserError: if a file is absent.
    """
    series: dict[tuple[Path, str, int], list[Path]] = {}
    for file in files:
        numbered = re.match(r"(.*?)-\d+-of-(\d+)", file.stem)
        if numbered:
            series.setdefault((file.parent, numbered[1], int(numbered[2])), []).append(file)
    for (folder, _, total), found in series.items():
        if len(found) != total:
            raise UserError(
                f"{folder} has {len(found)} of the {total} files that the name {found[0].name} "
                "tells of: complete the download"
            )


@contextmanager
def parquet_file(file: Path) -> Generator[pq.ParquetFile]:
    """Open a regular file as Parquet, and tell of whatever is found wrong with it.

    Raises:
        UserError: if it cannot be opened or, by whoever holds it open, read.
    """
    try:
        open_regular(file).close()
        with pq.ParquetFile(file) as opened:
            yield opened
    except UserError:
        raise
    except Exception as error:  # of damaged files pyarrow raises a dozen unrelated types
        raise UserError(
            f"{file} cannot be read as Parquet ({one_line(error)}): download it again"
        ) from error


def read_columns(
    opened: pq.ParquetFile,
    groups: Sequence[int],
    columns: Sequence[str],
    *,
    at_once: int,
    max_rows: int,
) -> pa.Table:
    """Unpack columns of some row groups, unless they unpack to more than memory is for.

    Args:
        opened: the file.
        groups: numbers of the row groups.
        columns: names of the columns.
        at_once: rows that are unpacked before their bytes are counted.
        max_rows: as many rows at most.

    Raises:
        OSError: if there are more rows, or more than 1 GiB.
    """
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in opened.iter_batches(
        at_once, row_groups=list(groups), columns=list(columns), use_threads=False
    ):
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows > max_rows or size > MAX_BYTES:
            told = f"it unpacks to more than {max_rows:,} rows or {MAX_BYTES:,} bytes"
            raise OSError(errno.EFBIG, told)
        batches.append(batch)
    schema = pa.schema([opened.schema_arrow.field(name) for name in columns])
    return pa.Table.from_batches(batches, schema=schema)


def _read_file(
    file: Path, label_columns: Sequence[str], num_classes: int, image_size: int
) -> tuple[UInt8[Tensor, "n 3 h w"], Int64[Tensor, " n"]]:
    with parquet_file(file) as content:
        names = content.schema_arrow.names
        label = next((name for name in label_columns if name in names), None)
        if label is None or "img" not in names:
            missing = "img" if "img" not in names else " or ".join(label_columns)
            raise UserError(
                f"{file} has no column {missing}, only {', '.join(names)}: rename it, or "
                "download the set again"
            )
        groups = range(content.num_row_groups)
        table = read_columns(
            content, groups, ["img", label], at_once=IMAGES_AT_ONCE, max_rows=_MAX_ROWS
        ).flatten()
    kind = dict(zip(table.column_names, table.schema.types, strict=True)).get("img.bytes")
    if kind not in (pa.binary(), pa.large_binary()):
        raise UserError(f"{file}: column img has no field bytes: download the file again")
    encoded = table.column("img.bytes").to_pylist()
    target = _targets(file, label, table.column(label).to_pylist(), num_classes)
    return _decode(file, encoded, image_size), target


def _targets(
    file: Path, column: str, labels: list[object], num_classes: int
) -> Int64[Tensor, " n"]:
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < num_classes:
            raise UserError(
                f"{file}, row {row}: {column} is {label}, not 0 to {num_classes - 1}: "
                "mend the file, or choose the data set that it belongs to"
            )
    return torch.tensor(labels, dtype=torch.int64)


def _decode(file: Path, encoded: list[bytes | None], image_size: int) -> UInt8[Tensor, "n 3 h w"]:
    reader = ImageReader()
    pixels = torch.empty(len(encoded), 3, image_size, image_size, dtype=torch.uint8)
    for row, content in enumerate(encoded):
        place = f"{file}, row {row}: the image"
        picture = reader.read(partial(bytes, content or b""), place)
        height, width = picture.shape[1:]
        if (height, width) != (image_size, image_size):
            raise UserError(
                f"{place} is {width} x {height} pixels, not {image_size} x {image_size}: choose "
                "the data set that it belongs to"
            )
        pixels[row] = picture
    return pixels


def one_line(error: Exception) -> str:
    """Return what an error says, as part of a line."""
    told = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".")
    return told or type(error).__name__
