"""Signals that ask a run to stop: Ctrl-C, and a scheduler's before it takes the machine away."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from rlkd import distributed

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; the end of a job's time, or its preemption; what `sbatch --signal=USR1@120` sends."""
_FORWARDED = 5.0
"""Seconds in which a launcher passes on a signal that a terminal has sent to its ranks as well."""


class Interrupted(Exception):  # noqa: N818  an order, not an error
    """A signal asked to stop; the message says where a resumed run goes on.

    Args:
        by: the signal.
        resumption: where the run goes on.
    """

    def __init__(self, by: signal.Signals, resumption: str) -> None:
        named = "" if by == signal.SIGINT else f" by {by.name}"
        super().__init__(f"interrupted{named}; {resumption}")
        self.signal = by
        self.exit_code = 128 + by
        """What a shell says of a process that the signal ended: 130, 143, 138."""


@contextmanager
def interrupts_held_back(*, from_children: bool) -> Generator[None]:
    """Let a block end before Ctrl-C is answered; in the main thread.

    Args:
        from_children: whether processes that begin there never see it, which a terminal sends to
            all. Not for those that are to be stopped by it later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT] if from_children else [])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


class StopSignals:
    """Notes the first signal that asks to stop; a second one stops at once, but for SIGUSR1.

    Args:
        resumption: says where the run goes on if it stops now.
    """

    def __init__(self, resumption: Callable[[], str]) -> None:
        self.asked: signal.Signals | None = None
        """The first signal that came."""
        self._resumption = resumption
        self._asked_at = 0.0
        self._at_once: Interrupted | None = None
        self._listening = False

    @contextmanager
    def listening(self) -> Generator[None]:
        """Answer the signals, and give them back to whom they belonged to."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        before = {each: signal.getsignal(each) for each in STOPPING}
        self._listening = True
        self.answer()
        try:
            yield
        except BaseException as error:
            if self._at_once is None or error is self._at_once:
                raise
            raise self._at_once from error  # what it was raised in may have made another of it
        finally:
            self._listening = False
            for each, handler in before.items():
                signal.signal(each, handler)

    def answer(self) -> None:
        """Take the signals back from Lightning, which has answers of its own."""
        if self._listening:
            for each in STOPPING:
                signal.signal(each, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = monotonic()
        if self.asked is None:
            self.asked, self._asked_at = signal.Signals(number), now
        elif number == signal.SIGUSR1:
            return  # a scheduler's notice, which asks for what was asked for already
        elif distributed.this_rank().world_size == 1 or now - self._asked_at > _FORWARDED:
            # Lightning turns a KeyboardInterrupt into an exit with code 1.
            self._at_once = Interrupted(self.asked, self._resumption())
            raise self._at_once
