"""Inputs that do what none may do: the judge must see each of it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.hostile.command import command
from benchmarks.hostile.kinds import Kind
from benchmarks.hostile.verdict import Case, Place

from rlkd import cli
from rlkd.errors import UserError


def prepare(shared: Path) -> None:
    (shared / "kept").write_text("as it was")


def _case(act: Callable[[Place], object], draw: Random, place: Place) -> Case:
    return Case(f"drawn {draw.random()}", lambda: str(act(place)))


class _TwoLinesError(UserError):
    """What no error of rlkd can be, whose message is one line whatever it is made of."""

    def __str__(self) -> str:
        return "a\nb"


def _raise(error: BaseException) -> None:
    raise error


def _allocate(place: Place) -> int:
    return len(bytearray(4 * 2**30))


def _answer(code: int | None, *lines: str) -> Callable[[Place], str]:
    """Let the command line answer with some lines, and exit with a code or raise."""

    def act(place: Place) -> str:
        def verb(overrides: list[str], console: object) -> None:
            _raise(UserError("\n".join(lines)) if code == 2 else ValueError("x"))

        cli._run = lambda verb_name, overrides: verb(overrides, None)
        return command(["show"])

    return act


ACTS: dict[str, tuple[str, Callable[[Place], object]]] = {
    "says ok": ("", lambda place: "ok"),
    "refuses": ("", lambda place: _raise(UserError("no"))),
    "writes into the output": ("", lambda place: (place.out / "x").write_text("x")),
    "raises": ("traceback", lambda place: _raise(ValueError("x"))),
    "exits": ("traceback", lambda place: _raise(SystemExit(1))),
    "refuses in two lines": ("several lines", lambda place: _raise(_TwoLinesError("a"))),
    "exits with 1": ("traceback", _answer(1)),
    "waits": ("hang", lambda place: time.sleep(60)),
    "turns round and round": ("hang", lambda place: sum(iter(int, 1))),
    "kills itself": ("killed", lambda place: signal.raise_signal(signal.SIGKILL)),
    "takes all memory": ("traceback", _allocate),
    "writes beside the output": ("touched", lambda place: (place.own / "x").write_text("x")),
    "writes into its input": ("touched", lambda place: (place.given / "x").write_text("x")),
    "writes unseen": ("touched", lambda place: _unseen(place.given / "x")),
    "changes what is shared": ("touched", lambda place: _unseen(place.shared / "kept")),
    "removes what is shared": ("touched", lambda place: (place.shared / "kept").unlink()),
    "starts a program": ("touched", lambda place: subprocess.run(["true"], check=True)),
    "starts a shell": ("touched", lambda place: os.system("true")),
}
"""What each does, and the failure that it is."""


def _unseen(path: Path) -> None:
    """Write as C++ code does, which raises no audit event."""
    from torch import ones, save

    save(ones(1), str(path))


AWFUL = {
    name: Kind(prepare, lambda draw, place, act=act: _case(act, draw, place))
    for name, (_, act) in ACTS.items()
}
