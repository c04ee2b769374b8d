"""The command line, called in this process, and what its answers must be like."""

import contextlib
import io
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkd import cli
from rlkd.errors import UserError
from rlkd.reporting import Result

from .verdict import FailedError, root_of


class RefusedError(UserError):
    """What the command line refused, with its line."""


def command(arguments: Sequence[str]) -> str:
    """Call `rlkd`; return what it prints.

    Raises:
        RefusedError: if it says in one line what is wrong, and exits with 2.
        FailedError: if it ends in any other way.
    """
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        try:
            with warnings.catch_warnings():
                code: Any = cli.main(list(arguments))
        except SystemExit as error:
            code = f"SystemExit({error.code})"
    said = told.getvalue()
    if code == 0:
        _check_text(printed.getvalue() + said)
        return printed.getvalue()
    lines = [
        each
        for each in said.splitlines()
        if each.startswith("rlkd: ") and not each.startswith("rlkd: note: ")
    ]
    shown = "Traceback (most recent call last)" in said and "--debug" not in arguments
    if code != 2 or shown:
        raise FailedError("traceback", f"exit {code}\n{said[-4000:]}", root_of(said))
    if len(lines) != 1 or not said.rstrip("\n").endswith(lines[0]):
        raise FailedError("several lines", said[-2000:], f"{len(lines)} lines: {said[-80:]!r}")
    _check_text(said)
    raise RefusedError(lines[0])


def _check_text(text: str) -> None:
    """Refuse what would drive a terminal, or could not be printed on one."""
    odd = sorted({each for each in text if ord(each) < 32 or 127 <= ord(each) < 160} - {*"\n\r\t"})
    if odd:
        at = text.index(odd[0])
        said = ascii(text[max(at - 200, 0) : at + 200])
        raise FailedError("nonsense", said, "control characters are printed")


def check_result(folder: Path) -> str:
    """Return a finished run's figures.

    Raises:
        FailedError: if they are not finite, or out of their range.
    """
    result = Result.read(folder / "result.json")
    for each in (result.test, result.teacher, result.validation):
        if each is not None:
            check_figures(json.loads(json.dumps(_plain(each))), str(folder))
    if not 0 <= result.images_per_second < math.inf or result.epochs < 0:
        raise FailedError("nonsense", f"{result}", "figures of result.json")
    return f"{result.test.headline_name} {result.test.headline:.4f} after {result.epochs} epochs"


def _plain(scores: Any) -> dict[str, Any]:
    names = scores.__dataclass_fields__
    return {name: getattr(scores, name) for name in names if _is_figure(getattr(scores, name))}


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_figures(figures: dict[str, Any], where: str) -> None:
    """Refuse figures that are not finite, or fractions outside [0, 1]."""
    for name, value in figures.items():
        # There is none without an object of a size, or with five classes or fewer.
        if (name.startswith("ap") or name == "top5") and math.isnan(value):
            continue
        fraction = name.startswith(("top", "ap"))
        if not math.isfinite(value) or (fraction and not 0 <= value <= 1):
            raise FailedError("nonsense", f"{where}: {name} is {value}", f"figure {name}")
