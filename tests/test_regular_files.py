"""Only regular files are read: a FIFO would wait for ever, a device might never end."""

import io
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlkd import regular_files
from rlkd.regular_files import open_regular, read_regular


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's address may not be as long as a test's folder
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


OTHERS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": a_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    OTHERS[kind](tmp_path / "a.png")
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        open_regular(tmp_path / "a.png")
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        read_regular(tmp_path / "a.png", 10)


def test_what_became_a_fifo_before_it_was_opened_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, fifo = tmp_path / "a.png", tmp_path / "fifo"
    file.write_bytes(b"1234")
    os.mkfifo(fifo)
    regular, opened, really = file.stat(), list[int](), os.open

    def noted(path: Path, flags: int) -> int:
        opened.append(really(path, flags))
        return opened[-1]

    def as_it_was(_: Path) -> os.stat_result:
        return regular

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", noted)
        patched.setattr(os, "stat", as_it_was)
        with pytest.raises(OSError, match="it is a FIFO"):
            open_regular(fifo)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_a_regular_file_is_read_through_links_and_up_to_a_size(tmp_path: Path) -> None:
    file, link = tmp_path / "a.png", tmp_path / "b.png"
    file.write_bytes(b"1234")
    link.symlink_to(file)
    assert read_regular(file, 4) == read_regular(link, 9) == b"1234"
    with pytest.raises(OSError, match="it has 4 bytes, above 3"):
        read_regular(link, 3)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "c.png", 3)


def test_a_file_of_holes_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(OSError, match=r"it has 4,398,046,511,104 bytes, above 1,000"):
        read_regular(tmp_path / "a.png", 1000)


def test_all_of_a_file_is_read_though_one_read_gives_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(io.FileIO):
        """As beyond 2 GiB, or on some network file systems."""

        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 3))

        def readinto(self, buffer: Any, /) -> int:
            return super().readinto(memoryview(buffer)[:3])

    (tmp_path / "a").write_bytes(bytes(range(100)))
    monkeypatch.setattr(regular_files, "open_regular", Short)
    assert read_regular(tmp_path / "a", 100) == bytes(range(100))
