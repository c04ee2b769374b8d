"""Runs of a sweep side by side on this machine, and the table that shows them while they run."""

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlkd.config.compose import as_yaml
from rlkd.config.settings import trusted_by
from rlkd.data.loaders.workers import cores
from rlkd.engine import build
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.signals import Interrupted, StopSignals
from rlkd.errors import UserError, notice
from rlkd.reporting.escaping import printable, say
from rlkd.reporting.pages import duration
from rlkd.sweep.nursery import Runs, Tried
from rlkd.sweep.plan import MOST_JOBS, Planned, first_of_each, refused

_SPARE = 0.9
"""Share of the free memory that runs may fill."""
_ON_DEVICE = 0.6
"""GiB of a GPU that a process has beside its tensors."""
_TRIED_AT_ONCE = 4
_REFRESH_SECONDS = 1.0
_FIRST_LINE_SECONDS, _LINE_SECONDS = 30.0, 600.0
"""When a log has its first line of progress, and how far apart two come to be."""


def side_by_side(
    planned: Sequence[Planned], jobs: int | None, console: Console
) -> Iterator[tuple[int, str | None]]:
    """Do runs side by side, and yield the number of each that ends, and why it failed.

    Each has one thread, or `trainer.threads`: how many run at once makes no difference to any. They
    begin in order, but for those that follow a run which has not ended.

    Args:
        planned: the runs.
        jobs: how many at once; None for one for each processor, as far as memory goes.
        console: where to show them.

    Raises:
        UserError: if a combination does not fit its networks and data, before any is trained (one
            that follows a run which has not ended fails by itself); if so many need more memory
            than there is; or if the process that starts them ends.
        Interrupted: after Ctrl-C, SIGTERM or SIGUSR1, when all have saved their checkpoints.
    """
    first = first_of_each(planned)
    left: list[int] = []
    for number, each in enumerate(planned):
        if RunFolder(each.path).scored:
            yield number, None
        else:
            left.append(number)
    if not left:
        return
    unread = {planned[number].path for number in left}
    first = [each for each in first if each.follows not in unread]
    signals = StopSignals(lambda: "the same command goes on")
    with signals.listening(), _nursery(planned) as door:
        numbers = [planned.index(each) for each in first]
        with console.status(f"trying whether {len(numbers)} combinations fit their data"):
            door.send(("try", numbers, min(cores(), _TRIED_AT_ONCE)))
            tried: dict[int, Tried] = {}
            for kind, *heard in _events(door, signals, console):
                if kind == "tried":
                    tried = heard[0]
                    break
        if signals.asked is not None:
            raise Interrupted(signals.asked, "no run was begun; the same command begins")
        for number, one in tried.items():
            if one.fault is not None:
                raise refused(planned[number], one.fault)
            for said in one.notices:
                notice(said)
        at_once = _count(planned, left, jobs, list(tried.values()))
        expected = _time(planned, left, tried, at_once)
        alone = expected and f"{expected} where nothing else runs"
        say(
            console,
            f"{len(left)} runs, {at_once} at a time{alone}; their logs are in {_logs(planned)}",
        )
        door.send(("train", left, at_once))
        yield from _watched(door, planned, left, signals, console)
    if signals.asked is not None:
        raise Interrupted(
            signals.asked, "every run has saved its checkpoint; the same command goes on"
        )


def _watched(
    door: Any,
    planned: Sequence[Planned],
    left: Sequence[int],
    signals: StopSignals,
    console: Console,
) -> Iterator[tuple[int, str | None]]:
    with _Table(console, planned, left) as table:
        for kind, *heard in _events(door, signals, console):
            if kind == "done":
                return
            if kind == "progress":
                table.show(heard[0])
                continue
            number, failure = heard
            if failure is not None and signals.asked is not None:
                continue  # it was stopped, whatever it was at
            if isinstance(failure, Signals):
                failure = f"it was stopped by {failure.name}; the same command goes on"
            table.ended(number, failure)
            yield number, failure


def _events(door: Any, signals: StopSignals, console: Console) -> Iterator[Any]:
    """Yield what a nursery says, and pass on to it the signal that asks to stop."""
    passed_on: Signals | None = None
    try:
        while True:
            if signals.asked is not None and passed_on is None:
                passed_on = signals.asked
                say(console, "stopping: every run saves its checkpoint")
                door.send(int(passed_on))
            if door.poll(_REFRESH_SECONDS):
                yield door.recv()
    except (EOFError, ConnectionError):
        raise UserError(
            "the process that starts the runs ended, as for want of memory: the same command goes "
            "on; give a lower jobs"
        ) from None


@contextmanager
def _nursery(planned: Sequence[Planned]) -> Generator[Any]:
    here, there = Pipe()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asks for a GPU without taking it
    }
    process = subprocess.Popen(
        # -P: code is not looked for where the command was given, but as this process does.
        [
            sys.executable,
            "-P",
            "-c",
            "from rlkd.sweep.nursery import main; main()",
            str(there.fileno()),
        ],
        pass_fds=[there.fileno()],
        env=environment | {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
        start_new_session=True,  # a terminal's Ctrl-C comes to this process alone
    )
    there.close()
    settings = [as_yaml(each.config) for each in planned]
    names = [each.path.name for each in planned]
    number = {each.path: place for place, each in enumerate(planned)}
    follows = [None if each.follows is None else number.get(each.follows) for each in planned]
    trusted = tuple(trusted_by(planned[0].config))
    try:
        with suppress(ConnectionError):  # whoever listens next finds it gone
            here.send(Runs(settings, trusted, list(sys.path), _logs(planned), names, follows))
        yield here
    finally:
        here.close()  # on which it stops what is still running
        process.wait()


def _logs(planned: Sequence[Planned]) -> Path:
    return planned[0].path.parent / "logs"


def _count(
    planned: Sequence[Planned], left: Sequence[int], jobs: int | None, tried: Sequence[Tried]
) -> int:
    """Return how many runs to do at once.

    Raises:
        UserError: if more were asked for than there is memory for.
    """
    need = max((each.memory for each in tried), default=0)
    rooms: list[tuple[int, str, float, float]] = []
    if need and (free := _free_memory()):
        rooms.append((int(_SPARE * free / need), "", need, free))
    if on_device := max((each.device_memory for each in tried), default=0):
        available, whole = torch.cuda.mem_get_info()[0], on_device + _ON_DEVICE * 2**30
        rooms.append((int(_SPARE * available / whole), "GPU ", whole, available))
    room, of, needs, there = min(rooms, default=(MOST_JOBS, "", 0, 0))
    fit = max(room, 1)
    if jobs is not None:
        if jobs > fit and len(left) > fit:
            raise UserError(
                f"jobs={jobs}: a run needs {needs / 2**30:.2f} GiB of {of}memory, and of "
                f"{there / 2**30:.2f} GiB that are free {fit} have room: give jobs={fit}, or auto"
            )
        return min(jobs, len(left))
    config = planned[left[0]].config
    workers = config.data.get("workers") or config.task.get("workers")
    busy = build.trainer_options(config).threads or 1
    busy += workers if isinstance(workers, int) else 0  # somebody's own data may have words there
    return max(min(cores() // busy, len(left), fit), 1)


def _time(
    planned: Sequence[Planned], left: Sequence[int], tried: Mapping[int, Tried], at_once: int
) -> str:
    """Return how long the runs take, h:mm:ss, by the steps that were tried; empty if not known.

    Those that could not be tried yet, since they follow others, take as long as these on average.
    """
    known = {tuple(planned[number].labels.items()): one.seconds for number, one in tried.items()}
    if not known or not all(known.values()):
        return ""
    mean = statistics.fmean(known.values())
    own = {number: known.get(tuple(planned[number].labels.items()), mean) for number in left}
    before: dict[Path | None, float] = {
        planned[number].path: seconds for number, seconds in own.items()
    }
    chains = [own[number] + before.get(planned[number].follows, 0.0) for number in left]
    total = max(sum(own.values()) / at_once, *chains)
    return f", some {duration(math.ceil(total))} of steps"


def _free_memory() -> int:
    """Return the bytes that processes may still take; 0 where the system does not say."""
    free: list[int] = []
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):  # a container's own limit, which may be "max"
        group = Path("/sys/fs/cgroup")
        limit, taken = (int((group / f"memory.{each}").read_text()) for each in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free.append(max(limit - taken + int(counts.get("inactive_file", 0)), 1))
    return min(free, default=0)


class _Table:
    """Runs done, running with their progress, and to come; in a log a line now and then.

    Args:
        console: where to show it.
        planned: the runs.
        left: the numbers of those that are to be done.
    """

    def __init__(self, console: Console, planned: Sequence[Planned], left: Sequence[int]) -> None:
        self._planned, self._left, self._began = planned, left, time.monotonic()
        self._first: dict[int, float] = {}
        self._failed, self._done = set[int](), set[int]()
        self._live: Live | None = None
        self._console, self._wait = console, _FIRST_LINE_SECONDS
        self._next_line = self._began + self._wait
        if console.is_terminal:
            # Drawn by this thread, when there is something new.
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "_Table":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def ended(self, number: int, failure: str | None) -> None:
        """Count a run that has ended."""
        (self._done if failure is None else self._failed).add(number)

    def show(self, progress: Sequence[tuple[float, float]]) -> None:
        """Draw the table, or write a line if it is time for one.

        Args:
            progress: of each run, which share is done, and its images per second.
        """
        self._running(progress)  # where each stood when it was first seen
        if self._live is not None:
            self._live.update(self.drawn(progress), refresh=True)
        elif time.monotonic() >= self._next_line:
            self._wait = min(2 * self._wait, _LINE_SECONDS)
            self._next_line = time.monotonic() + self._wait
            say(self._console, self.line(progress))

    def line(self, progress: Sequence[tuple[float, float]]) -> str:
        """Return the table in a line."""
        running = self._running(progress)
        shares = (
            f"{self._planned[number].path.name} {100 * progress[number][0]:.0f} %"
            for number in running
        )
        left = self._time_left(progress, running)
        return "; ".join(filter(None, (self._counts(running), *shares, left)))

    def drawn(self, progress: Sequence[tuple[float, float]]) -> Table:
        """Return the table."""
        table, running = Table(box=None, pad_edge=False), self._running(progress)
        for column in ("run", "", "done", "images/s"):
            table.add_column(column, justify="left" if column in ("run", "") else "right")
        for number in running:
            share, rate = progress[number]
            name = Text(printable(self._planned[number].path.name), overflow="ellipsis")
            bar = ProgressBar(total=1.0, completed=share, width=20)
            table.add_row(name, bar, f"{100 * share:.0f} %", f"{rate:.0f}")
        total = sum(progress[number][1] for number in running)
        left = self._time_left(progress, running)
        table.add_row(self._counts(running), "", left, f"{total:.0f}")
        return table

    def _running(self, progress: Sequence[tuple[float, float]]) -> list[int]:
        ended = self._done | self._failed
        running = [each for each in self._left if each not in ended and progress[each][0] > 0]
        for number in running:
            self._first.setdefault(number, progress[number][0])
        return running

    def _counts(self, running: Sequence[int]) -> str:
        to_come = len(self._left) - len(self._done | self._failed) - len(running)
        failed = f", {len(self._failed)} failed" if self._failed else ""
        return f"{len(self._done)} done{failed}, {len(running)} running, {to_come} to come"

    def _time_left(self, progress: Sequence[tuple[float, float]], running: Sequence[int]) -> str:
        """Return how long the rest takes at the pace so far; empty while that is not known."""
        ended = len(self._done | self._failed)
        gained = ended + sum(progress[each][0] - self._first[each] for each in running)
        rest = len(self._left) - ended - sum(progress[each][0] for each in running)
        if gained <= 0:
            return ""
        return f"{duration((time.monotonic() - self._began) * rest / gained)} left"
