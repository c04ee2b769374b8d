"""Two processes on one folder: one writes there, the other is refused or waits."""

import errno
import fcntl
import io
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from rich.console import Console
from tests.marks import but_long
from tests.support.refusal import Refuse, assert_told
from tests.support.run_folders import classifier_run
from tests.support.runs import SOURCES, fingerprint, silent, tiny, tiny_config

from rlkd.engine import lock
from rlkd.engine import run as running
from rlkd.engine.lock import LOCK, locked
from rlkd.errors import Notice, UserError

pytestmark = pytest.mark.usefixtures("plainly")


class Holder:
    """Another process, which has a folder until it is killed or let go."""

    def __init__(self, folder: Path, *, forks: bool = False) -> None:
        context = multiprocessing.get_context("fork")
        self.here, there = context.Pipe()
        self.process = context.Process(target=self._hold, args=(folder, there, forks))
        self.process.start()
        assert self.here.recv() == "held"

    def _hold(self, folder: Path, there: Connection, forks: bool) -> None:
        self.here.close()
        with locked(folder, "refuse", silent()):
            if forks and os.fork() == 0:
                with suppress(EOFError):
                    there.recv()  # nothing, until the test is over
                os._exit(0)
            there.send("held")
            there.recv()

    def let_go(self) -> None:
        self.here.send("let go")
        self.process.join()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def hold(folder: Path, *, forks: bool = False) -> Holder:
        holders.append(Holder(folder, forks=forks))
        return holders[-1]

    yield hold
    for each in holders:
        if each.process.is_alive():
            each.kill()
        each.here.close()  # by which what it forked ends too


Hold = Callable[..., Holder]


class Hears(io.StringIO):
    """A terminal that acts on the first that it is shown."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def write(self, text: str, /) -> int:
        if not self.getvalue():
            self.act()
        return super().write(text)


def take(folder: Path) -> None:
    """Take a folder that nobody has, or raise."""
    with locked(folder, "refuse", silent()):
        assert (folder / LOCK).is_file()


def test_a_folder_that_a_process_writes_in_is_refused_with_who_it_is(
    hold: Hold, tmp_path: Path
) -> None:
    holder = hold(tmp_path / "run")
    before = fingerprint(tmp_path)
    words = rf"run is in use by process {holder.process.pid} on \S+ since 20\d\d-\d\d-\d\d .*\(.+\)"
    with pytest.raises(UserError, match=rf"{words}: wait for it with lock=wait"):
        take(tmp_path / "run")
    assert fingerprint(tmp_path) == before
    holder.let_go()
    assert not (tmp_path / "run").exists()  # made for the lock, and empty
    take(tmp_path / "run")


@pytest.mark.parametrize("forks", but_long([False, True], True))
def test_a_process_that_is_killed_has_the_folder_no_longer(
    forks: bool, hold: Hold, tmp_path: Path
) -> None:
    holder = hold(tmp_path / "run", forks=forks)
    holder.kill()
    assert (tmp_path / "run" / LOCK).is_file()
    with locked(tmp_path / "run", "refuse", silent()):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / LOCK).read_text()
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("killed", but_long([False, True], True))
def test_a_folder_is_waited_for(killed: bool, hold: Hold, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").write_text("")
    holder = hold(tmp_path / "run")
    terminal = Hears(holder.kill if killed else holder.let_go)
    with (
        locked(tmp_path / "run", "wait", Console(file=terminal, width=1000)),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} "),
    ):
        take(tmp_path / "run")
    (line,) = terminal.getvalue().splitlines()
    assert line.startswith(
        f"waiting for {tmp_path / 'run'}, which is in use by process {holder.process.pid} on "
    )
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["kept"]


@pytest.mark.long
def test_who_waits_for_a_run_that_ends_meanwhile_does_not_repeat_it(
    hold: Hold, teacher_file: Path, tmp_path: Path
) -> None:
    run, done = tmp_path / "run", tmp_path / "done"
    settings = ("trainer.epochs=1", *SOURCES["constant"])
    running.run(tiny_config(teacher_file, done, *settings), console=silent())
    holder = hold(run)

    def end() -> None:
        shutil.copytree(done, run, dirs_exist_ok=True)
        holder.let_go()

    terminal = Hears(end)
    waiting = tiny_config(teacher_file, run, *settings, "lock=wait")
    running.run(waiting, console=Console(file=terminal, width=1000))
    assert terminal.getvalue().splitlines()[1:] == [f"{run} is complete already"]


VERBS: dict[str, tuple[str, ...]] = {
    "distill": ("distill", "output={held}"),
    "train": ("train", "student=convnet_tiny", "output={held}"),
    "multirun": ("train", "--multirun", "student=convnet_tiny", "seed=0,1", "output={held}"),
    "compare": ("compare", "method=kd,dkd", "output={held}"),
    "demo": ("demo", "output={held}"),
    "predict": ("predict", "run={run}", "images={run}", "output={held}"),
    "export": ("export", "run={run}", "format=safetensors", "to={held}/student.safetensors"),
    "push": ("push", "run={run}", "to={held}"),
}


@pytest.mark.parametrize("verb", but_long(VERBS, "train", "export"))
def test_every_verb_that_writes_in_a_folder_is_refused_while_another_process_does(
    verb: str, hold: Hold, refuse: Refuse, tmp_path: Path
) -> None:
    run = classifier_run(tmp_path / "run")
    hold(tmp_path / "held")
    words = [each.format(held=tmp_path / "held", run=run.path) for each in VERBS[verb]]
    assert_told(refuse(*words), rf"{tmp_path / 'held'} is in use by process \d+ on ")


@pytest.mark.long
def test_a_run_is_read_while_another_process_writes_there(
    hold: Hold, teacher_file: Path, tmp_path: Path
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", "trainer.epochs=1", *SOURCES["constant"])
    result = running.distill(settings, console=silent())
    hold(tmp_path / "run")
    before = fingerprint(tmp_path)
    assert running.distill(settings, console=silent()) == result
    scored = running.score_checkpoints([f"run={tmp_path / 'run'}"], console=silent())
    assert scored == {"student": result.test}
    assert fingerprint(tmp_path) == before


def test_where_there_is_no_writing_a_run_that_is_complete_is_read_all_the_same(
    refuse: Refuse, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", "trainer.epochs=1", *SOURCES["constant"])
    running.distill(settings, console=silent())
    opened = os.open

    def read_only(path: str | Path, flags: int, *more: int) -> int:
        if flags & (os.O_CREAT | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *more)

    monkeypatch.setattr(lock.os, "open", read_only)
    running.distill(settings, console=silent())
    running.score_checkpoints([f"run={tmp_path / 'run'}"], console=silent())
    other = tiny(teacher_file, tmp_path / "other", "trainer.epochs=1")
    told = refuse("distill", *other)
    assert_told(told, "cannot write in .*/other: Read-only file system; choose a folder you may")


def test_a_file_system_without_locks_is_told_and_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    words = r"run is on a file system without locks \(No locks available\): see to it that no other"
    with pytest.warns(Notice, match=words):
        take(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder", "nothing's link"])
def test_what_stands_where_the_lock_belongs_is_not_written_to(kind: str, tmp_path: Path) -> None:
    place, other = tmp_path / "run" / LOCK, tmp_path / "other"
    place.parent.mkdir()
    other.write_text("somebody's")
    {
        "link": lambda: place.symlink_to(other),
        "hard link": lambda: place.hardlink_to(other),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
        "nothing's link": lambda: place.symlink_to(tmp_path / "new"),
    }[kind]()
    with pytest.raises(UserError, match=r"run/\.lock is no lock of rlkd: remove it$"):
        take(place.parent)
    assert other.read_text() == "somebody's"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other", "run"]


def test_what_a_lock_says_is_shown_as_one_line_of_text(tmp_path: Path) -> None:
    with locked(tmp_path, "refuse", silent()):
        (tmp_path / LOCK).write_bytes(b"process 1\n\x1b[2J\xff\xe2\x80\xae" + b"x" * 10_000)
        with pytest.raises(UserError) as caught:
            take(tmp_path)
    assert re.search(r"in use by process 1\?\?\[2J\ufffd\?x+: wait", str(caught.value))
    assert len(str(caught.value)) < 1200


def test_who_may_write_in_a_folder_may_take_over_its_lock(hold: Hold, tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    hold(tmp_path).kill()
    assert (tmp_path / LOCK).stat().st_mode & 0o777 == 0o660


def test_a_folder_that_was_moved_meanwhile_takes_no_lock_of_another_with_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    moved = ExitStack()
    moved.enter_context(locked(first, "refuse", silent()))
    first.rename(second)
    with locked(first, "refuse", silent()):
        with pytest.raises(UserError, match="second is in use"):
            take(second)
        moved.close()
        take(second)
        with pytest.raises(UserError, match="first is in use"):
            take(first)


def test_an_option_that_is_none_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    told = refuse("train", f"output={tmp_path / 'run'}", "lock=maybe")
    assert_told(told, "lock=maybe: choose one of refuse, wait")
