"""What an input does to the machine: files written, programs started, addresses called."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown"), (0,)),
    **dict.fromkeys(("os.truncate", "shutil.rmtree", "os.utime", "os.setxattr"), (0,)),
    **dict.fromkeys(("os.rename", "shutil.move"), (0, 1)),
    **dict.fromkeys(("os.link", "os.symlink", "shutil.copyfile", "shutil.copytree"), (1,)),
}
"""Which arguments of an audit event are paths that it changes."""
_NEVER = frozenset(
    {
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"),
        *("os.kill", "os.killpg", "socket.connect", "socket.bind", "socket.sendto"),
        *("urllib.Request", "webbrowser.open", "ftplib.connect", "smtplib.connect"),
        *("http.client.connect", "os.startfile", "ctypes.call_function"),
    }
)
"""Events that no input may lead to."""
_HARMLESS = ("/dev/null", "/dev/shm/", "/proc/self/")


@dataclass
class Watch:
    """Notes what leaves the folders that may be written to, and forbids it.

    Writes of C++ code (safetensors, pyarrow) raise no audit event: see `snapshot` for those.
    """

    allowed: tuple[str, ...] = ()
    on: bool = False
    seen: list[str] = field(default_factory=list[str])

    def begin(self, allowed: Iterable[Path]) -> None:
        """Watch from here on; the folders may be written to."""
        self.allowed = tuple(os.path.realpath(each) for each in allowed)
        self.seen, self.on = [], True

    def end(self) -> list[str]:
        """Stop watching, and return what was seen."""
        self.on = False
        return self.seen

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Do what `sys.addaudithook` asks."""
        if not self.on:
            return
        if event in _NEVER:
            self._forbid(f"{event} {arguments[0]!r}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING:
                self._check(event, path)
        else:
            for position in _PATHS.get(event, ()):
                self._check(event, arguments[position])

    def _check(self, event: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor, which some path was opened for
        self.on = False  # realpath reads links
        whole = os.path.join(os.path.realpath(os.path.dirname(os.fsdecode(path))), "")
        self.on = True
        if (
            not f"{whole}{os.path.basename(os.fsdecode(path))}".startswith(
                (*(f"{each}/" for each in self.allowed), *_HARMLESS)
            )
            and os.path.realpath(os.fsdecode(path)) not in self.allowed
        ):
            self._forbid(f"{event} {os.fsdecode(path)!r}")

    def _forbid(self, what: str) -> None:
        self.seen.append(what[:300])
        raise PermissionError(f"outside the output: {what[:300]}")


WATCH = Watch()


def install() -> None:
    """Put the hook in its place, for the rest of this process."""
    sys.dont_write_bytecode = True
    sys.addaudithook(WATCH.hook)


def snapshot(folders: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Return what stands in some folders, by path: kind and mode, size, and when it was changed."""
    found: dict[str, tuple[int, ...]] = {}
    for folder in folders:
        for above, directories, files in os.walk(folder):
            for name in (*directories, *files):
                told = os.lstat(path := os.path.join(above, name))
                changed = () if name in directories else (told.st_size, told.st_mtime_ns)
                found[path] = (told.st_mode, *changed)
    return found


def differences(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> list[str]:
    """Return the paths that two snapshots do not agree on."""
    return sorted(path for path in before | after if before.get(path) != after.get(path))
