"""What may become of an input, and what must not."""

import json
import re
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

OURS = f"{Path('src', 'rlkd')}/"
_KIND = re.compile(r"^  +\S.*\n([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)
_FRAME = re.compile(r'File "([^"]+)", line (\d+),? in (\S+)')


@dataclass
class Place:
    """Where an input is made, and where what is done with it may write."""

    shared: Path
    """What `prepare` left: inputs in good order, for all to copy; nobody writes here."""
    own: Path
    """The input's own folder."""

    @property
    def given(self) -> Path:
        """Its files, which must be the same afterwards."""
        return self.own / "in"

    @property
    def out(self) -> Path:
        """The one folder that may be written to: the current folder, with TMPDIR and HOME in it."""
        return self.own / "out"


Act = Callable[[], str]
"""Does something with an input: returns what came of it, or raises `UserError` to refuse it."""


@dataclass(frozen=True)
class Case:
    """An input that was made."""

    words: str
    """What it is."""
    act: Act
    writes: tuple[Path, ...] = ()
    """Folders of `given` that it may write to, such as a run that goes on."""


Make = Callable[[Random, Place], Case]


class FailedError(Exception):
    """An input led to what it must not."""

    def __init__(self, failure: str, said: str, root: str = "") -> None:
        super().__init__(said)
        self.failure, self.said, self.root = failure, said, root


@dataclass
class Verdict:
    """What became of an input."""

    kind: str
    seed: int
    words: str = ""
    outcome: str = "accepted"
    """Or `refused`, or `failed`."""
    failure: str = ""
    """Of a failed one: traceback, several lines, hang, killed, touched, nonsense."""
    said: str = ""
    """What came of it, or why it was refused, or how it failed."""
    root: str = ""
    """Of a failed one: the exception's type and the deepest frame of the package."""
    seconds: float = 0.0
    alone: bool | None = None
    """Whether a failed one fails in a process of its own too."""
    notes: list[str] = field(default_factory=list[str])
    """Traceback of a failed one, its last lines."""

    def to_line(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    def fail(self, failure: str, said: str, root: str) -> None:
        """Make it a failed one."""
        self.outcome, self.failure, self.said, self.root = "failed", failure, said[-2000:], root


def root_of(text: str) -> str:
    """Return the type of a traceback's first exception and its deepest frame of the package.

    Args:
        text: as Python prints it, or faulthandler.
    """
    text = re.split(r"\n(?:The above exception was|During handling of)", text)[0]
    # What a last frame is followed by: an exception may have lines of its own.
    kinds = _KIND.findall(text)
    kind = kinds[-1].rpartition(".")[2] if kinds else "?"
    frames = [each for each in _FRAME.findall(text) if OURS in each[0]]
    if not frames:
        return f"{kind} in no file of rlkd"
    path, line, name = frames[-1]
    return f"{kind} in {path.partition(OURS)[2]}:{line} {name}"


def root_of_error(error: BaseException) -> tuple[str, list[str]]:
    """Return the root of an exception, and the last lines of its traceback."""
    text = "".join(traceback.format_exception(error))
    return root_of(text), text.splitlines()[-30:]
