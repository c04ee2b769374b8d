"""Inputs in processes of their own: blocks of them, each in a fork with limits and a watchdog."""

import contextlib
import faulthandler
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import IO

from rlkd.config.compose import configure
from rlkd.errors import UserError

from . import watch
from .command_line import SMALL, keys
from .kinds import KINDS, Kind
from .verdict import FailedError, Place, Verdict, root_of, root_of_error

PATIENCE = 60.0
"""Seconds that it may take to make one, or to get ready."""
MEMORY = 2 * 2**30
"""Bytes that an input may claim beyond what the process has."""
_NO_MEMORY = re.compile("MemoryError|allocate|not enough memory", re.IGNORECASE)
"""What says that a limit of ours was too late."""
BLOCK = 50
"""Inputs that share a process, while none fails."""


class Runner:
    """Tries inputs, each judged by what it says and by what it does to the machine.

    Its process must not have computed with torch yet: what forks from it computes.

    Args:
        folder: for all files.
        limit: seconds that an input may take.
        keep: whether to leave the inputs' files where they are.
        kinds: by name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit: float = 10.0,
        keep: bool = False,
        kinds: Mapping[str, Kind] = KINDS,
    ) -> None:
        self.folder, self.limit, self.keep, self.kinds = folder, limit, keep, kinds

    def run(self, kind: str, seeds: Sequence[int]) -> Iterator[Verdict]:
        """Yield what becomes of a kind's inputs; one that fails is tried once more, alone."""
        self._prepare(kind)
        left = list(seeds)
        while left:
            done = 0
            for verdict in self._block(kind, left[:BLOCK]):
                done += 1
                if verdict.outcome == "failed":
                    again = next(iter(self._block(kind, [verdict.seed])), None)
                    verdict.alone = again is not None and again.root == verdict.root
                yield verdict
            if not done:
                raise RuntimeError(f"no input of {kind} was tried: {self._log_tail(kind)}")
            left = left[done:]

    def _prepare(self, kind: str) -> None:
        """Make what a kind's inputs are made of, in a fork."""
        shared, log = self._shared(kind), self._log(kind)
        if shared.is_dir():
            return
        shared.mkdir(parents=True)
        configure(SMALL)  # here, so that no fork has to read what is packaged
        keys()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _quiet(log)
                os.chdir(shared)
                self.kinds[kind].prepare(shared)
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise RuntimeError(f"no inputs of {kind} can be made: {self._log_tail(kind)}")

    def _shared(self, kind: str) -> Path:
        return self.folder / "shared" / self.kinds[kind].prepare.__module__.rpartition(".")[2]

    def _log(self, kind: str) -> Path:
        return self.folder / f"{_file_name(kind)}.log"

    def _log_tail(self, kind: str) -> str:
        return self._log(kind).read_text(encoding="utf-8", errors="replace")[-3000:]

    def _block(self, kind: str, seeds: Sequence[int]) -> Iterator[Verdict]:
        """Yield the verdicts of a block, up to the first input that ends its process."""
        reading, writing = os.pipe()
        traces = tempfile.TemporaryFile("w+")  # noqa: SIM115 which the fork writes to
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                self._child(kind, seeds, writing, traces)
            except BaseException:  # of what makes inputs, not of what they meet
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(1)
        os.close(writing)
        running: Verdict | None = None
        try:
            with os.fdopen(reading, "rb", buffering=0) as lines:
                pending = b""
                while True:
                    wait = PATIENCE if running is None or not running.words else self.limit + 3
                    if not select.select([lines], [], [], wait)[0]:
                        told = running or Verdict(kind, seeds[0])
                        told.fail("hang", "no answer", f"hang: {_deepest(traces)}")
                        yield told
                        return
                    read = os.read(lines.fileno(), 1 << 20)
                    if not read:
                        break
                    *whole, pending = (pending + read).split(b"\n")
                    for each in whole:
                        running = Verdict(**json.loads(each))
                        if running.seconds:
                            yield running
                            running = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            traces.close()
        if running is not None:
            running.fail("killed", f"the process ended with {status}", f"killed: {status}")
            yield running

    def _child(self, kind: str, seeds: Sequence[int], writing: int, traces: IO[str]) -> None:
        os.setpgid(0, 0)
        _quiet(self._log(kind))
        watch.install()
        claimed = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (claimed + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 2**20,) * 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for seed in seeds:
            own = self.folder / "inputs" / f"{_file_name(kind)}-{seed}"
            shutil.rmtree(own, ignore_errors=True)
            place = Place(self._shared(kind), own)
            verdict = self._try(kind, seed, place, writing, traces)
            os.write(writing, verdict.to_line().encode())
            os.chdir(self.folder)
            if not self.keep:
                _remove(own)
            if verdict.outcome == "failed":
                os._exit(0)  # what failed may have left the process in any state
        os._exit(0)

    def _try(self, kind: str, seed: int, place: Place, writing: int, traces: IO[str]) -> Verdict:
        verdict = Verdict(kind, seed)
        os.write(writing, verdict.to_line().encode())
        for each in (place.given, place.out / "tmp", place.out / "home"):
            each.mkdir(parents=True)
        os.chdir(place.out)
        os.environ |= {"TMPDIR": str(place.out / "tmp"), "HOME": str(place.out / "home")}
        tempfile.tempdir = None
        case = self.kinds[kind].make(Random(f"{kind} {seed}"), place)
        verdict.words = case.words[:1000] or "?"
        os.write(writing, verdict.to_line().encode())
        before = watch.snapshot([place.shared, place.given])
        traces.seek(0)
        traces.truncate()
        faulthandler.dump_traceback_later(self.limit, file=traces)
        began = time.perf_counter()
        watch.WATCH.begin([place.out, *case.writes])
        try:
            verdict.said = case.act()[-2000:]
        except UserError as error:
            verdict.outcome, verdict.said = "refused", str(error)[-2000:]
            if "\n" in str(error).strip():
                verdict.fail("several lines", str(error), "several lines")
            elif _NO_MEMORY.search(str(error)):
                verdict.fail("memory", str(error), "refused by the allocator, not before")
        except FailedError as error:
            verdict.fail(error.failure, error.said, error.root)
            verdict.notes = error.said.splitlines()[-30:]
        except BaseException as error:
            root, verdict.notes = root_of_error(error)
            verdict.fail("traceback", f"{type(error).__name__}: {error}", root)
        finally:
            touched = watch.WATCH.end()
            verdict.seconds = max(time.perf_counter() - began, 1e-6)
            faulthandler.cancel_dump_traceback_later()
        after = watch.snapshot([place.shared, place.given])
        own = tuple(str(each) for each in case.writes)
        changed = [
            each for each in watch.differences(before, after) if not each.startswith(own or ("\0",))
        ]
        if touched or changed:
            what = (touched + changed)[0]
            verdict.fail("touched", "; ".join(touched + changed), f"touched: {what.split()[0]}")
        elif verdict.seconds > self.limit and verdict.outcome != "failed":
            traces.flush()
            verdict.fail("hang", f"{verdict.seconds:.0f} s", f"hang: {_deepest(traces)}")
        return verdict


def _file_name(kind: str) -> str:
    return re.sub(r"\W+", "_", kind)


def _deepest(traces: IO[str]) -> str:
    traces.seek(0)
    text = traces.read()
    # faulthandler prints the most recent call first.
    return root_of("\n".join(reversed(text.splitlines()))).partition(" in ")[2]


def _quiet(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)


def _remove(folder: Path) -> None:
    for above, directories, _ in os.walk(folder):
        for each in directories:
            with contextlib.suppress(OSError):
                os.chmod(os.path.join(above, each), 0o755)
    shutil.rmtree(folder, ignore_errors=True)
