"""Rows of logits in memory-mapped files, each found by its number and known to be whole.

A row counts as there when its check fits it. Rows are written before their checks, so that a kill
at any moment leaves a row whole or absent; a power cut, or a flipped bit, leaves one whose check
does not fit, which counts as absent too. A row that is there never changes: whoever comes second
finds the first one's.
"""

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkd.atomic import window

Rows = NDArray[np.int64]
"""Numbers of rows, from 0."""
_AT_ONCE = 1 << 16
"""Rows that are looked at together where all are."""


class Records:
    """Two files of a folder: the rows, and a check for each.

    Args:
        folder: where they are.
        rows: how many may be there.
        columns: numbers of a row.
        dtype: of a number: float16 or float32.
        writable: whether rows may be added.

    Raises:
        OSError: if a file cannot be opened.
        ValueError: if a file is not as long as so many rows are; the message names it.
    """

    def __init__(
        self, folder: Path, *, rows: int, columns: int, dtype: np.dtype[Any], writable: bool
    ) -> None:
        self.rows, self.columns, self.dtype = rows, columns, dtype
        self.logits, self.checks = folder / LOGITS, folder / CHECKS
        self.writable = writable
        for path, size in sizes(folder, rows=rows, columns=columns, dtype=dtype).items():
            if path.stat().st_size != size:
                raise ValueError(f"{path} has {path.stat().st_size:,} bytes, not {size:,}")
        self._row = np.memmap(self.logits, dtype, "r", shape=(rows, columns)).view(np.ndarray)
        self._check = np.memmap(self.checks, np.uint32, "r", shape=(rows,)).view(np.ndarray)
        flags = os.O_RDWR if writable else os.O_RDONLY
        self._files = [os.open(each, flags) for each in (self.logits, self.checks)]
        self._factor = np.random.default_rng(0).integers(
            0, 1 << 63, size=columns, dtype=np.uint64
        ) * np.uint64(2) + np.uint64(1)

    def read(self, rows: Rows) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return copies of some rows, shape (rows, columns), and which of them are there."""
        held = self._row[rows]
        return held, self._check[rows] == self._checks(rows, held)

    def write(self, rows: Rows, values: NDArray[Any]) -> None:
        """Add some rows; what is there already stays.

        Args:
            rows: their numbers.
            values: shape (rows, columns), of the files' type.

        Raises:
            OSError: if there is no room; the rows that had room are there.
        """
        with self._alone():
            _, there = self.read(rows)
            new = np.flatnonzero(~there)
            rows, first = np.unique(rows[new], return_index=True)
            values = np.ascontiguousarray(values[new][first])
            checks = self._checks(rows, values)
            for start, end in _runs(rows):
                self._put(0, int(rows[start]) * values[0].nbytes, values[start:end].tobytes())
                window("row", self.logits)
                self._put(1, int(rows[start]) * checks.itemsize, checks[start:end].tobytes())
                window("check", self.checks)

    @contextmanager
    def claimed(self, row: int, *, wait: bool) -> Generator[bool]:
        """Claim the computing of rows by the first of them, for as long as the context lasts.

        One process at a time holds a claim; a killed one holds none. Hold one at a time.

        Args:
            row: the first of those that are to be computed together.
            wait: whether to wait for another process that holds it.

        Yields:
            False if another process holds it, and is not waited for.
        """
        held, byte = True, (1, row)
        try:
            # Apart from `_alone`'s lock, which is of another kind.
            fcntl.lockf(self._files[0], fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), *byte)
        except OSError as error:  # a file system without locks, or a file that is read alone
            held = wait or error.errno not in (errno.EACCES, errno.EAGAIN)
        try:
            yield held
        finally:
            if held:
                with suppress(OSError):
                    fcntl.lockf(self._files[0], fcntl.LOCK_UN, *byte)

    def sync(self) -> None:
        """Make what was written outlast a power cut."""
        for each in self._files if self.writable else ():
            os.fsync(each)

    def count(self) -> int:
        """Return how many rows have a check; whether it fits is not looked at."""
        return int(np.count_nonzero(self._check))

    def marked(self) -> Rows:
        """Return the rows that have a check; whether it fits is not looked at."""
        return _marked(self._check)

    def damaged(self) -> Generator[Rows]:
        """Yield the rows that have a check which does not fit, a part of the file at a time."""
        for start in range(0, self.rows, _AT_ONCE):
            rows = start + _marked(self._check[start : start + _AT_ONCE])
            yield rows[~self.read(rows)[1]]

    @contextmanager
    def _alone(self) -> Generator[None]:
        # On a file system without locks two processes may write one row, each the same up to
        # rounding; it is whole all the same.
        with suppress(OSError):
            fcntl.flock(self._files[1], fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(self._files[1], fcntl.LOCK_UN)

    def _put(self, file: int, place: int, content: bytes) -> None:
        while content:
            written = os.pwrite(self._files[file], content, place)
            place, content = place + written, content[written:]

    def _checks(self, rows: Rows, values: NDArray[Any]) -> NDArray[np.uint32]:
        """Return a check for each row, of its number and its bits; 0 for none.

        The sum of its numbers' bits, each times an odd factor of its own, modulo 2^64: no change
        of one number leaves it alone.
        """
        bits = values.view(np.uint16 if self.dtype.itemsize == 2 else np.uint32)
        total = (bits.astype(np.uint64) * self._factor).sum(axis=1, dtype=np.uint64)
        total += (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        folded = (total ^ (total >> np.uint64(32))).astype(np.uint32)
        return np.maximum(folded, np.uint32(1))

    def __del__(self) -> None:
        for each in getattr(self, "_files", ()):
            os.close(each)


LOGITS, CHECKS = "logits.bin", "checks.bin"


def sizes(folder: Path, *, rows: int, columns: int, dtype: np.dtype[Any]) -> dict[Path, int]:
    """Return the bytes that each file has."""
    return {folder / LOGITS: rows * columns * dtype.itemsize, folder / CHECKS: rows * 4}


def _marked(check: NDArray[np.uint32]) -> Rows:
    """Return where a check is; of a copy, since other processes write meanwhile."""
    return np.flatnonzero(check != 0)


def _runs(rows: Rows) -> list[tuple[int, int]]:
    """Return where rows of consecutive numbers begin and end; rows are ascending."""
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    ends = [0, *(int(each) for each in cuts), len(rows)]
    return list(pairwise(ends))
