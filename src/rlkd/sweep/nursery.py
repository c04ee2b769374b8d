"""Runs beside one another: a process that does nothing but start them, one process each.

It has loaded the code and the data once, and computes nothing itself: what it forks off shares both
in memory, and is as a process that has just begun.
"""

import mmap
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rlkd.config.settings import trust
from rlkd.engine import build
from rlkd.engine.callbacks.progress import Clock
from rlkd.engine.module import StudentModule
from rlkd.engine.run import attempt
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.shared_data import load, loaded_once
from rlkd.engine.signals import STOPPING, Interrupted
from rlkd.errors import Notice, UserError
from rlkd.reporting.escaping import say_trace
from rlkd.sweep.plan import message_of, unfollowed

_POLL_SECONDS = 0.5
_TIMED = 3
"""Steps by which the time of a run is estimated."""
_LONGEST = 4000
"""Characters of a failure that are passed on."""
_MOST_SAID = 8
"""As many notices are passed on."""
_fork = multiprocessing.get_context("fork")
_PAIR = struct.Struct("dd")
"""Of a run: the share that is done, and images a second."""
_PARENT_DIED = 1
"""PR_SET_PDEATHSIG of Linux."""


@dataclass(frozen=True)
class Runs:
    """The runs of a sweep, as the process that starts them gets them."""

    settings: list[str]
    """The configuration of each run, YAML."""
    trusted: tuple[str, ...]
    """The packages that the user trusts."""
    path: list[str]
    """Where code is looked for."""
    logs: Path
    """A folder of a file for each run, of what it prints."""
    names: list[str]
    """Of the runs."""
    follows: list[int | None]
    """The number of the run that each reads, and so waits for."""


@dataclass(frozen=True)
class Tried:
    """What came of getting ready to train."""

    fault: str | None = None
    """Why a run cannot be trained, for the user to fix."""
    memory: int = 0
    """Bytes that a step took, beside what is shared."""
    device_memory: int = 0
    """The same of a GPU."""
    seconds: float = 0.0
    """That its training is expected to take at this pace, evaluations and loading left out; 0 where
    that is not known."""
    notices: tuple[str, ...] = ()
    """What is to be said before it trains."""


class Nursery:
    """Starts processes, and hears of them.

    Args:
        runs: those that it may start.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        count = len(runs.settings)
        self._loaded: dict[int, Sequence[warnings.WarningMessage]] = {}
        """Warnings that the loading of a run's data gave."""
        self._progress = mmap.mmap(-1, max(count, 1) * _PAIR.size)  # shared with what is forked

    def tried(
        self, numbers: Sequence[int], at_once: int, looked: Callable[[], int | None]
    ) -> dict[int, Tried]:
        """Get ready to train each of some runs, and do a step that is thrown away.

        Args:
            numbers: of the runs.
            at_once: how many are tried side by side.
            looked: see `trained`.
        """
        found: dict[int, Tried] = {}

        def ended(number: int, outcome: Any) -> None:
            # Whatever a network of somebody's own does to its process is for the run to report.
            tried = outcome if isinstance(outcome, Tried) else Tried()
            said = _said(self._loaded.get(number, ()))
            found[number] = replace(tried, notices=(*said, *tried.notices))

        self._side_by_side(numbers, at_once, self._try, ended, looked)
        return found

    def trained(
        self,
        numbers: Sequence[int],
        at_once: int,
        ended: Callable[[int, Any], None],
        looked: Callable[[], int | None],
    ) -> None:
        """Do some runs.

        Args:
            numbers: of the runs, in the order in which they begin.
            at_once: how many run side by side.
            ended: hears of each: None for one that is done, or why it failed.
            looked: called again and again; returns a signal that all are to be stopped by.
        """
        self._side_by_side(numbers, at_once, self._train, ended, looked)

    def progress(self, number: int) -> tuple[float, float]:
        """Return which share of a run is done, and its images per second."""
        return _PAIR.unpack_from(self._progress, number * _PAIR.size)

    def _side_by_side(
        self,
        numbers: Sequence[int],
        at_once: int,
        work: Callable[[int], Any],
        ended: Callable[[int, Any], None],
        looked: Callable[[], int | None],
    ) -> None:
        waiting, running = list(numbers), dict[int, tuple[BaseProcess, Connection]]()
        passed_on = set[int]()
        while waiting or running:
            while len(running) < at_once and not passed_on:
                going_on = {*waiting, *running}
                free = (each for each in waiting if self.runs.follows[each] not in going_on)
                if (number := next(free, None)) is None:
                    break
                waiting.remove(number)
                with suppress(Exception), warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", Notice)
                    self._loaded[number] = caught
                    load(self._config(number))  # the run itself meets what it raises, and reports
                here, there = _fork.Pipe(duplex=False)
                process = _fork.Process(target=self._be, args=(work, number, there))
                # Until it has handlers of its own, signals wait.
                signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
                try:
                    process.start()
                    running[number] = process, here
                except OSError as error:
                    ended(number, f"its process did not start ({error.strerror}): lower jobs")
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
                    there.close()
            wait([process.sentinel for process, _ in running.values()], timeout=_POLL_SECONDS)
            for number, (process, door) in list(running.items()):
                if process.is_alive():
                    continue
                process.join()
                del running[number]
                ended(number, _outcome(process, door))
            signalled = looked()
            if signalled is not None and signalled not in passed_on:
                passed_on.add(signalled)
                waiting.clear()
                for process, _ in running.values():
                    with suppress(ProcessLookupError):
                        os.kill(process.pid or 0, signalled)

    def _be(self, work: Callable[[int], Any], number: int, door: Connection) -> None:
        """Be a process of one run."""
        _die_with_parent()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for each in STOPPING[1:]:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        torch.set_num_threads(1)  # unless the run says otherwise
        try:
            outcome = work(number)
        except BaseException as error:  # a process of multiprocessing would print it and end with 1
            outcome = f"{type(error).__name__}: {error}"
        if isinstance(outcome, str):
            outcome = outcome[:_LONGEST]  # all of it is in the log; a pipe holds so much
        with suppress(OSError):
            door.send(outcome)
        door.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # threads of somebody's library would hold it up

    def _config(self, number: int) -> DictConfig:
        config = OmegaConf.create(self.runs.settings[number])
        assert isinstance(config, DictConfig)
        trust(config, self.runs.trusted, held_by="a run that was planned")
        return config

    def _folder(self, number: int) -> RunFolder:
        return RunFolder(Path(self._config(number).output))

    def _try(self, number: int) -> Tried:
        self._print_to(os.devnull)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", Notice)
            try:
                tried = _step(self._config(number))
            except UserError as error:
                return Tried(fault=str(error)[:_LONGEST])
        return replace(tried, notices=_said(caught))

    def _train(self, number: int) -> Any:
        follows = self.runs.follows[number]
        if follows is not None and not self._folder(follows).result.is_file():
            return unfollowed(self.runs.names[follows])
        self.runs.logs.mkdir(parents=True, exist_ok=True)
        self._print_to(self.runs.logs / f"{self.runs.names[number]}.log")

        def watch(share: float, rate: float) -> None:
            _PAIR.pack_into(self._progress, number * _PAIR.size, share, rate)

        try:
            error = attempt(self._config(number), Console(), watch=watch)
        except Interrupted as interrupted:
            return interrupted.signal
        if error is not None:
            say_trace(Console(stderr=True), error)
        return None if error is None else message_of(error)

    def _print_to(self, path: str | Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        file = os.open(path, flags if path != os.devnull else os.O_WRONLY, 0o666)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)


def _step(config: DictConfig) -> Tried:
    """Get ready to train, do what takes most memory in a step, and time it when done again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = build.trainer_options(config)
    options.use_threads()
    module: StudentModule = build.task(config).prepare(config, options).module
    seconds = 0.0
    with suppress(Exception):  # whatever a network of somebody's own raises, the run reports
        module.to(options.device)
        clock = Clock(options.device)
        with options.autocast():
            batch: Any = next(iter(module.loader))  # pyright: ignore
            module.try_step(batch)
            clock.settle()
            began = time.perf_counter()
            for _ in range(_TIMED):
                module.try_step(batch)
            clock.settle()
        passes = len(module.loader) * options.epochs
        seconds = passes * (time.perf_counter() - began) / _TIMED
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    on_device = torch.cuda.max_memory_reserved() if options.device.type == "cuda" else 0
    return Tried(memory=grown, device_memory=on_device, seconds=seconds)


def _said(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return the notices among warnings, each once, no longer than a pipe holds with many."""
    said = [str(each.message)[:_LONGEST] for each in caught if issubclass(each.category, Notice)]
    return tuple(dict.fromkeys(said))[:_MOST_SAID]


def _asked(door: Connection) -> Any:
    """Return the next thing to do; a signal that comes when nothing runs any more stops nothing."""
    while isinstance(heard := door.recv(), int):
        pass
    return heard


def _outcome(process: BaseProcess, door: Connection) -> Any:
    """Return what a process left, or what became of it."""
    with door, suppress(EOFError, OSError, pickle.UnpicklingError):
        if door.poll():
            return door.recv()
    code = process.exitcode or 0
    if code < 0:
        name = signal.Signals(-code).name
        wanted = ", as for want of memory: lower jobs" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{wanted}"
    return f"its process ended with code {code} and left no outcome"


def _die_with_parent() -> None:
    """Have the kernel stop this process, as by SIGTERM, when the nursery is gone."""
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PARENT_DIED, int(signal.SIGTERM))


def main() -> None:
    """Be a nursery: the door is the file descriptor that is the one argument."""
    for each in STOPPING:  # which the process that asks passes on
        signal.signal(each, signal.SIG_IGN)
    door: Any = Connection(int(sys.argv[1]))
    runs = door.recv()
    sys.path[:] = runs.path
    nursery, shown = Nursery(runs), 0.0

    def looked() -> int | None:
        nonlocal shown
        with suppress(BrokenPipeError):
            if time.monotonic() - shown >= _POLL_SECONDS:
                shown = time.monotonic()
                shares = [nursery.progress(number) for number in range(len(runs.settings))]
                door.send(("progress", shares))
        try:
            return door.recv() if door.poll() else None
        except (EOFError, OSError):
            return signal.SIGTERM  # who asked is gone

    def ended(number: int, outcome: Any) -> None:
        with suppress(BrokenPipeError):
            door.send(("ended", number, outcome))

    with loaded_once():
        try:
            while True:
                deed, numbers, at_once = _asked(door)
                if deed == "try":
                    door.send(("tried", nursery.tried(numbers, at_once, looked)))
                else:
                    nursery.trained(numbers, at_once, ended, looked)
                    door.send(("done",))
        except (EOFError, ConnectionError):
            return
