"""One process at a time writes in a folder; the kernel ends the hold of one that dies."""

import fcntl
import os
import shlex
import socket
import stat
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from rich.console import Console

from rlkd import distributed
from rlkd.atomic import remove_unfinished
from rlkd.errors import UserError, notice
from rlkd.reporting.escaping import say

LOCK = ".lock"
"""In a folder, while a process writes there: says which. No lock by being there: one that a killed
process left behind is taken over."""
_POLL_SECONDS = 0.2
_LONGEST = 200
"""Characters of a command that are shown."""
_open = set[int]()


@contextmanager
def locked(folder: Path, how: str, console: Console) -> Generator[None]:
    """Have a folder for oneself, with the ranks of the same run, rid of what kills left behind.

    The file `LOCK` is in it as long as that lasts; a folder that is made for it, and is empty
    at the end, is removed. Where the file system has no locks that is a notice, no more.

    Args:
        folder: is made where it is missing.
        how: one of `config.options.LOCK_CHOICES`.
        console: where to say who is waited for.

    Raises:
        UserError: if another process has it and is not to be waited for, or it is not writable.
    """
    lock, waits = _Lock(folder), False
    while (holder := distributed.on_rank_zero(lock.take)) is not None:
        if how != "wait":
            raise UserError(
                f"{folder} is in use by {holder}: wait for it with lock=wait, or give another "
                "folder"
            )
        if not waits:
            say(console, f"waiting for {folder}, which is in use by {holder}")
        waits = True
        time.sleep(_POLL_SECONDS)
    try:
        distributed.on_rank_zero(lambda: remove_unfinished(folder))
        yield
    finally:
        lock.leave()


class _Lock:
    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, folder / LOCK
        self.descriptor = -1
        self.made: list[Path] = []
        """Folders that were not there, the innermost first."""

    def take(self) -> str | None:
        """Take the folder, or return who has it."""
        try:
            while True:
                above = [each for each in (self.folder, *self.folder.parents) if not each.exists()]
                self.made = above or self.made
                self.folder.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
                with suppress(FileNotFoundError):  # the folder went with who had it
                    self.descriptor = os.open(self.place, flags, 0o666)
                    break
            return self._lock()
        except OSError as error:
            if os.path.islink(self.place) or os.path.isdir(self.place):
                raise self._foreign() from None
            reason = error.strerror or str(error)
            raise UserError(
                f"cannot write in {self.folder}: {reason}; choose a folder you may write to"
            ) from None

    def _lock(self) -> str | None:
        _open.add(self.descriptor)
        found = os.fstat(self.descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            self._close()
            raise self._foreign()
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.descriptor, 4 * _LONGEST, 0).decode("utf-8", "replace")
            self._close()
            return "".join(each if each.isprintable() else "?" for each in holder) or "a process"
        except OSError as error:
            notice(
                f"{self.folder} is on a file system without locks ({error.strerror}): see to it "
                "that no other process writes there"
            )
        if not self._is_there():  # who had it has removed it, and let go then
            self._close()
            return self.take()
        with suppress(OSError):  # a courtesy
            os.fchmod(self.descriptor, self.folder.stat().st_mode & 0o666)
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, _oneself().encode("utf-8", "backslashreplace"), 0)
        return None

    def _foreign(self) -> UserError:
        return UserError(f"{self.place} is no lock of rlkd: remove it")

    def leave(self) -> None:
        if self.descriptor not in _open:
            return  # another rank, or a process that was forked off
        with suppress(OSError):
            if self._is_there():  # not where somebody has moved the folder
                self.place.unlink()
        self._close()
        with suppress(OSError):
            for each in self.made:
                each.rmdir()

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.lstat(self.place))
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        _open.discard(self.descriptor)
        os.close(self.descriptor)


def _let_go() -> None:
    """Leave locks to the parent: a worker that outlives it would hold them on."""
    for each in _open:
        os.close(each)
    _open.clear()


os.register_at_fork(after_in_child=_let_go)


def _oneself() -> str:
    program = Path(sys.argv[0]).name
    command = shlex.join(["rlkd" if program == "__main__.py" else program, *sys.argv[1:]])
    if len(command) > _LONGEST:
        command = f"{command[: _LONGEST - 3]}..."
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since} ({command})"
