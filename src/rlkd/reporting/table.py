"""Arms of a comparison side by side: mean, spread over seeds, and whether a gap means anything."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlkd.errors import UserError
from rlkd.reporting.result import Result
from rlkd.reporting.scores import Scores, kind_of
from rlkd.reporting.words import UNKNOWN, percent


@dataclass(frozen=True, slots=True)
class Row:
    """One arm over its seeds."""

    label: str
    """The arm's name."""
    mean: float
    """Mean headline of the test split after the last epoch, a fraction in [0, 1]."""
    std: float | None
    """Sample standard deviation over seeds (divisor n - 1), a fraction; None for one run."""
    n: int
    """Number of runs."""
    images_per_second: float
    """Training images a second, mean over runs."""
    headline_name: str = Scores.headline_name
    """What the headline is: top-1 or AP."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm minus the baseline."""

    value: float
    """Difference of the means, a fraction."""
    standard_error: float | None
    """sqrt(std_a^2 / n_a + std_b^2 / n_b), a fraction; None where either arm has one run."""

    @property
    def inside_noise(self) -> bool | None:
        """Whether twice the standard error covers the difference; None where it is not known."""
        if self.standard_error is None or not math.isfinite(self.value):
            return None
        return abs(self.value) <= 2 * self.standard_error

    @property
    def note(self) -> str:
        """What may be said of the difference."""
        if self.inside_noise is None:
            return "noise not known"
        return "inside the noise" if self.inside_noise else "beyond 2 se"


@dataclass(frozen=True, slots=True)
class Cells:
    """A table in words: what every way of printing it shows."""

    header: list[str]
    rows: list[list[str]]


def summarise(arms: Mapping[str, Sequence[Result]]) -> list[Row]:
    """Summarise each arm over its runs, in the order given.

    Raises:
        UserError: An arm has no runs, or the runs are of two kinds of task.
    """
    kind_of((label, result.test) for label, results in arms.items() for result in results)
    return [_row(label, results) for label, results in arms.items()]


def difference(row: Row, baseline: Row) -> Difference:
    """Compare an arm with the baseline, as two independent samples of runs."""
    value = row.mean - baseline.mean
    if row.std is None or baseline.std is None:
        return Difference(value, None)
    return Difference(value, math.sqrt(row.std**2 / row.n + baseline.std**2 / baseline.n))


def cells(rows: Sequence[Row], baseline: str | None = None) -> Cells:
    """Put the rows in words.

    Args:
        rows: The arms.
        baseline: The label of the arm that the others are compared with; None leaves the
            comparison out.

    Raises:
        UserError: No row has the baseline's label.
    """
    base = None if baseline is None else _find(rows, baseline)
    measure = rows[0].headline_name if rows else Scores.headline_name
    header = ["arm", "n", f"{measure}, %", "sd"]
    if base is not None:
        header += ["difference", "se", "note"]
    return Cells([*header, "images/s"], [_words(row, base) for row in rows])


def to_markdown(rows: Sequence[Row], *, baseline: str | None = None) -> str:
    """Return the table in Markdown.

    Raises:
        UserError: No row has the baseline's label.
    """
    table = cells(rows, baseline)
    rule = [":--" if name in ("arm", "note") else "--:" for name in table.header]
    lines = [table.header, rule, *table.rows]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped) + "\n"


def print_table(
    rows: Sequence[Row],
    title: str,
    *,
    baseline: str | None = None,
    console: Console | None = None,
) -> None:
    """Print the table on a terminal.

    Raises:
        UserError: No row has the baseline's label.
    """
    print_cells(cells(rows, baseline), title, left=("arm", "note"), console=console)


def print_cells(
    words: Cells, title: str, *, left: Sequence[str], console: Console | None = None
) -> None:
    """Print a table in words on a terminal.

    Args:
        words: What it shows.
        title: Plain words.
        left: Names of the columns that hold words, not figures: they are set to the left.
        console: Where to print; None for standard output.
    """
    table = Table(
        title=Text(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for name in words.header:
        side = "left" if name in left else "right"
        table.add_column(Text(name), justify=side, overflow="fold")
    for row in words.rows:
        table.add_row(*(Text(cell) for cell in row))
    (console or Console()).print(table)


def _row(label: str, results: Sequence[Result]) -> Row:
    if not results:
        raise UserError(f"arm {label!r} has no runs; name at least one run folder for it")
    headlines = [result.test.headline for result in results]
    spread = None if len(results) == 1 else _sample_std(headlines)
    speed = statistics.fmean(result.images_per_second for result in results)
    mean, name = statistics.fmean(headlines), results[0].test.headline_name
    return Row(label, mean, spread, len(results), speed, name)


def _sample_std(values: Sequence[float]) -> float:
    """`statistics.stdev` breaks on NaN, which a run that diverged may leave."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def _find(rows: Sequence[Row], label: str) -> Row:
    for row in rows:
        if row.label == label:
            return row
    known = ", ".join(row.label for row in rows)
    raise UserError(f"baseline {label!r} is not among the arms; choose one of: {known}")


def _words(row: Row, base: Row | None) -> list[str]:
    spread = UNKNOWN if row.std is None else percent(row.std)
    words = [row.label, str(row.n), percent(row.mean), spread]
    if base is row:
        words += ["", "", "baseline"]
    elif base is not None:
        gap = difference(row, base)
        error = UNKNOWN if gap.standard_error is None else percent(gap.standard_error)
        shown = f"{round(100 * gap.value, 2) + 0.0:+.2f}" if math.isfinite(gap.value) else UNKNOWN
        words += [shown, error, gap.note]
    speed = f"{row.images_per_second:,.0f}" if math.isfinite(row.images_per_second) else UNKNOWN
    return [*words, speed]
