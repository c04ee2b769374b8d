"""Files that are whole or absent: what must outlast a kill or a full disk is written through here.

A file is written under a passing name beside its own, made to last, renamed, and its new name made
to last. So a reader sees the old file or the new one, and a kill leaves no more than a passing
file, which `remove_unfinished` takes away.
"""

import errno
import fcntl
import os
import re
import secrets
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlkd.errors import UserError

GATE = "RLKD_WRITE_GATE"
"""The variable by which benchmarks/kills.py, and nobody else, delays writing; see `window`."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk, a spent quota and a limit on a file's size answer."""
_UNFINISHED = re.compile(r"\..+\.rlkd-[0-9a-f]{16}\.tmp", re.DOTALL)


@contextmanager
def whole(path: str | Path) -> Generator[Path]:
    """Give the passing name of an empty file to write to, and at the end the file its own name.

    Where the writing fails the passing file is removed, and what was under the name stays.

    Args:
        path: the file; its folder is made where it is missing.

    Yields:
        The passing name. What is there may be written and read, not replaced by another file.

    Raises:
        UserError: if it cannot be written.
    """
    path = Path(path)
    # No more of the name than leaves it one that a file may have.
    unfinished = path.with_name(f".{path.name[:32]}.rlkd-{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            # Says that its writer lives. Some network file systems have no locks.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            window("begun", path)
            yield unfinished
            sync(descriptor, path)
            rename(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritable(path, error) from error


def sync(descriptor: int, path: Path) -> None:
    """Make what was written for a file outlast a power cut."""
    window("written", path)
    os.fsync(descriptor)
    window("synced", path)


def rename(unfinished: Path, path: Path) -> None:
    """Give a file that was made to last its own name, and make that last too."""
    os.replace(unfinished, path)
    window("renamed", path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that do not sync folders
            raise
    finally:
        os.close(descriptor)
    window("done", path)


def is_unfinished(path: Path) -> bool:
    """Return whether a file has a passing name, as `whole` gives them."""
    return _UNFINISHED.fullmatch(path.name) is not None


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left half written in a folder, not in those below it.

    What a living process is writing stays, on whichever machine it is: it holds a lock on it.
    """
    with suppress(OSError):
        for path in filter(is_unfinished, list(folder.iterdir())):
            with suppress(OSError):
                _remove_left(path)


def _remove_left(path: Path) -> None:
    """Remove a file unless its lock is held, which raises."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A writer that was done meanwhile has renamed it.
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            path.unlink()
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> UserError:
    """Return what to say of a file that cannot be written."""
    full = error.errno in FULL
    remedy = "free some space and try again" if full else "choose a folder you may write to"
    return UserError(f"cannot write {path}: {error.strerror or error}; {remedy}")


def window(moment: str, path: Path) -> None:
    """Wait at a moment of writing a file while benchmarks/kills.py, if it looks on, says so.

    That listens at the socket that the variable `GATE` names, hears of each moment, and answers
    when it is to pass. Nobody else sets the variable.

    Args:
        moment: begun, written, synced, renamed, done.
        path: of the file.
    """
    if gate := os.environ.get(GATE):
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(gate)
            door.sendall(f"{moment} ".encode() + os.fsencode(path))
            door.recv(1)
