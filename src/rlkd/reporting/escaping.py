"""Texts of others in each medium: names, paths, labels and messages that are shown, never obeyed.

Whatever writes to a terminal, Markdown or CSV does it by these; HTML has `html.escape`, and JSON
and YAML have writers of their own.
"""

import re
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""What breaks a line, steers a terminal, turns the order of letters, or is half a character."""
_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_MARKDOWN = re.compile(
    r"[\\`*|~$]|<(?=[A-Za-z/!?])|&(?=[#\w])|\[(?=\^)|\](?=[(\[:])"
    r"|(?<![^\W_])_|_(?![^\W_])|(?<=\s)#(?=#*$)"
)
"""What has a meaning within a line, where it has one: `a_b`, `[0.5]` and `<0.001` are plain."""
_BLOCK = re.compile(
    r"^(\d{0,9})([-+](?=[-\s]|$)|(?<=\d)[.)](?=\s|$)|>|#{1,6}(?=\s|$)|\[(?=[ xX]\]))"
)
"""What makes a list, a quotation or a heading of a line that begins with it."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_FORMULA = re.compile(r"[\t\r\n]|\s*[-=+@'＝＋－＠]")  # noqa: RUF001, spreadsheets take these too
_LONGEST = 2000
"""Characters of a message."""


def printable(text: str) -> str:
    r"""Return a text as one line, with an escape for what is not seen: `\n`, `\x1b`, `\u202e`."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(message: str) -> str:
    """Return a message as one line that can be read: of a longer one the beginning and the end."""
    line = printable(_BREAKS.sub(" ", message.strip()))
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}"


def say(console: "Console", line: str) -> None:
    """Print one line as it stands, with escapes for what the terminal cannot show."""
    from rich.text import Text  # not needed by whoever reads figures

    shown = printable(line).encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.print(Text(shown), soft_wrap=True)


def say_trace(console: "Console", error: BaseException) -> None:
    """Print an error as Python does, with where it was raised."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        say(console, line)


def markdown(text: str) -> str:
    """Return what Markdown shows as the text, in a cell, a heading, an item or a paragraph.

    Spaces around it, which Markdown does not show, are left out.
    """
    return _BLOCK.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\g<0>", printable(text).strip(" ")))


def markdown_code(text: str) -> str:
    """Return what Markdown shows as the text in the type of code, outside of tables."""
    text = printable(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if not {"`", " "}.isdisjoint((text[:1], text[-1:])) else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV; None and NaN are empty cells.

    A text that a spreadsheet could take for a formula has a ' before it, as has one that begins
    with ' itself: who takes off the first ' of a cell has the text. Numbers stay as they are.
    """
    return "".join(",".join(map(_csv_cell, row)) + "\n" for row in rows)


def _csv_cell(cell: object) -> str:
    if cell is None or cell != cell:
        return ""
    text = str(cell)
    if isinstance(cell, str) and _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    # The csv module of Python 3.11 leaves a carriage return, which ends a row, without quotes.
    return '"' + text.replace('"', '""') + '"' if re.search('[",\r\n]', text) else text
