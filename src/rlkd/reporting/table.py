"""Tables in words: on a terminal and as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlkd.reporting.escaping import markdown, printable


@dataclass(frozen=True, slots=True)
class Cells:
    """A table in words: what every way of printing it shows."""

    header: list[str]
    rows: list[list[str]]


def terminal_table(
    words: Cells, title: str, *, left: Sequence[str], under: Sequence[str] = ()
) -> Table:
    """Return a table for a terminal.

    Args:
        words: What it shows.
        title: Plain words; none where empty.
        left: Names of the columns that hold words, not figures: they are set to the left.
        under: Plain words below it, a line each.
    """
    table = Table(
        title=Text(printable(title)) if title else None,
        caption=Text("\n".join(map(printable, under))) if under else None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for name in words.header:
        side = "left" if name in left else "right"
        table.add_column(Text(printable(name)), justify=side, overflow="fold")
    for row in words.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def print_cells(
    words: Cells, title: str, *, left: Sequence[str], console: Console | None = None
) -> None:
    """Print a table on a terminal; see `terminal_table`.

    Args:
        words: What it shows.
        title: Plain words.
        left: Names of the columns that hold words.
        console: Where to print; None for standard output.
    """
    (console or Console()).print(terminal_table(words, title, left=left))


def to_markdown(words: Cells, *, left: Sequence[str]) -> str:
    """Return a table in Markdown, without a line break at its end; see `terminal_table`."""
    rule = [":--" if name in left else "--:" for name in words.header]
    header, *rows = [list(map(markdown, line)) for line in (words.header, *words.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))
