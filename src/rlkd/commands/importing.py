"""Imports that take seconds."""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def leaving_at_once() -> Generator[None]:
    """Let Ctrl-C end the process amid imports, which nothing gets out of in good order.

    Nothing is written before they are done.
    """
    # Not where the signal is ignored, as under nohup, or somebody else's.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*_: object) -> None:
    if os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0":
        os.write(2, b"rlkd: interrupted\n")
    os._exit(130)
