"""The one door to files that somebody else made: regular ones alone, and no more than is asked."""

import errno
import hashlib
import io
import os
import stat
from io import FileIO
from pathlib import Path

from rlkd.errors import UserError

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | Path) -> FileIO:
    """Open a regular file, or a link to one, to be read.

    A FIFO would wait for a writer for ever, and some devices never end: neither is opened.

    Raises:
        OSError: if it is anything else, or cannot be opened; `strerror` says which.
    """
    _check(os.stat(path), path)  # before it is opened, which some devices answer by doing something
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return FileIO(descriptor)


def read_regular(path: str | Path, most: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file, or a link to it.
        most: bytes that it may have.

    Raises:
        OSError: if it is no regular file, cannot be read, or is larger; `strerror` says which.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            fault = f"it has {size:,} bytes, above {most:,}"
            raise OSError(errno.EFBIG, fault, str(path))
        with io.BufferedReader(file) as whole:  # one read of a file itself stops at 2 GiB
            return whole.read(size)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file's content.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _check(found: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
