"""Files that are whole or absent, and what a kill leaves of those that are neither."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rlkd.atomic import FULL, remove_unfinished, whole
from rlkd.errors import UserError

LEFT = ".student.onnx.rlkd-0123456789abcdef.tmp"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    foreign = [".student.onnx.tmp", ".rlkd-0123456789abcdef.tmp", "student.onnx", LEFT[1:]]
    for name in (LEFT, *foreign):
        (tmp_path / name).write_text("half")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / LEFT).write_text("half")
    (tmp_path / LEFT.replace("0", "f")).symlink_to(tmp_path / "student.onnx")
    remove_unfinished(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {
        *foreign,
        "below",
        LEFT.replace("0", "f"),
    }
    assert (tmp_path / "below" / LEFT).exists()
    assert (tmp_path / "student.onnx").read_text() == "half"


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    with whole(path) as unfinished:
        unfinished.write_text("whole")
        remove_unfinished(tmp_path)
        assert os.listdir(tmp_path) == [unfinished.name]
        assert unfinished.name.startswith(".student.onnx.rlkd-")
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["student.onnx"]
    assert path.read_text() == "whole"


def test_a_folder_that_is_not_there_or_may_not_be_read_has_nothing_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_unfinished(tmp_path / "absent")
    (tmp_path / LEFT).write_text("half")
    monkeypatch.setattr(Path, "unlink", refused(errno.EACCES))
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == [LEFT]


@pytest.mark.parametrize("act", ["fsync", "replace"])
@pytest.mark.parametrize("number", FULL)
def test_a_full_disk_leaves_the_old_file_and_says_what_helps(
    act: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(os, act, refused(number))
    with pytest.raises(UserError, match=rf"^cannot write {path}: .*; free some space") as told:
        write(path)
    assert os.strerror(number) in str(told.value)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError, UserError])
def test_whatever_ends_a_write_leaves_the_old_file_alone(
    stop: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(stop):
        write(path, stop)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a", "old")]


def test_a_file_system_without_locks_and_synced_folders_is_written_to_nonetheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("rlkd.atomic.fcntl.flock", refused(errno.ENOLCK))
    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "a")
    (tmp_path / LEFT).write_text("whose?")
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [LEFT, "a"]


def test_a_name_as_long_as_a_name_may_be_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + ".json")
    write(path)
    assert path.read_text() == "whole"
    assert path.stat().st_mode == written_plainly(tmp_path / "other").stat().st_mode


def write(path: Path, stop: type[BaseException] | None = None) -> None:
    with whole(path) as unfinished:
        unfinished.write_text("whole")
        if stop is not None:
            raise stop("the end")


def written_plainly(path: Path) -> Path:
    path.write_text("")
    return path


def refused(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse
