"""Tables: cells on a terminal and as Markdown, and the cells and caption of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rlkd.reporting.escaping import markdown, printable
from rlkd.reporting.results import provenance
from rlkd.reporting.results.record import RunRecord
from rlkd.reporting.results.scores import UNKNOWN, percent, sentence
from rlkd.reporting.statistics.comparison import DONE, NOT_RUN, Combination, Comparison
from rlkd.reporting.statistics.paired_test import LEVEL, PairedDifference, t_quantile
from rlkd.reporting.statistics.same_settings import ABSENT

VERDICT = "verdict"
FEW_SEEDS = 3
LISTED = 6
SPARE = ("speed", "images/s", "p (Holm)", "sd", "n")
"""Columns of a comparison that a narrow terminal does without, the first to go first."""
_WIDEST = 10_000
_UNEVEN = 1.5
"""Ratio of the speeds of runs that differ in their seed alone, above which speeds say little."""


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
        words: Its cells.
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


@dataclass(frozen=True, slots=True)
class FittedTable:
    """A table for a terminal, without its spare columns where that is too narrow for all.

    Args:
        words: Its cells.
        title: Plain words; none where empty.
        left: Names of the columns that hold words.
        under: Plain words below it, a line each.
        spare: Names of the columns that can be spared, in the order in which they go.
    """

    words: Cells
    title: str
    left: Sequence[str]
    under: Sequence[str]
    spare: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it with as many columns as fit."""
        words, under, wide = self.words, self.under, options.update(width=_WIDEST)
        for name in self.spare:
            table = terminal_table(words, "", left=self.left)
            if Measurement.get(console, wide, table).maximum <= options.max_width:
                break
            if name in words.header:
                at = words.header.index(name)
                lines = [[*line[:at], *line[at + 1 :]] for line in (words.header, *words.rows)]
                words = Cells(lines[0], lines[1:])
        if gone := [name for name in self.words.header if name not in words.header]:
            under = [*under, f"The terminal is too narrow for {', '.join(gone)}."]
        yield terminal_table(words, self.title, left=self.left, under=under)


def print_cells(
    words: Cells, title: str, *, left: Sequence[str], console: Console | None = None
) -> None:
    """Print a table on a terminal; see `terminal_table`.

    Args:
        words: Its cells.
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


def table_words(comparison: Comparison) -> Cells:
    """Put the rows in words, one combination a row; one alone is compared with nothing."""
    header = [*(comparison.keys or ("runs",)), "n", f"{comparison.kind.headline_name}, %", "sd"]
    if len(comparison.rows) == 1:
        return Cells([*header, "images/s"], [_figures(row) for row in comparison.rows])
    header += ["difference", "95 % interval", "p (Holm)", VERDICT, "images/s", "speed"]
    return Cells(header, [_row(row) for row in comparison.rows])


def words_columns(comparison: Comparison) -> tuple[str, ...]:
    """Return the columns of the table that hold words, not figures."""
    return (*(comparison.keys or ("runs",)), VERDICT)


def caption(comparison: Comparison) -> str:
    """Say what the figures are, and how large a difference they could have shown."""
    figures = (
        f"{sentence(comparison.kind.headline_words)} on the test split after the last epoch, not "
        "the best; the test split selects nothing. Mean and sample standard deviation (sd) over n "
        f"seeds, {_seeds(comparison)}.{_images(comparison)}"
    )
    speed = "Images/s: median over the seeds, of steps alone, without loading and evaluations"
    if len(comparison.rows) == 1:
        return f"{figures} {speed}."
    return (
        f"{figures} Differences are to {_baseline(comparison)}, in percentage points, paired by "
        f"seed. {_tests(comparison)} {speed}; speed: that as a multiple of the baseline's."
    )


def at_a_glance(comparison: Comparison, name: str) -> str:
    """Say in one sentence what the difference of a combination to its baseline shows.

    Args:
        comparison: The whole.
        name: That of the combination.
    """
    row = next(row for row in comparison.rows if row.name == name)
    against = f"{name} against {', '.join(comparison.baseline.values())}"
    if row.difference is None:
        return f"{against}: {row.verdict}."
    gap, interval = points(row.difference.value), _interval(row.difference)
    over = f", 95 % interval {interval}" if interval else ""
    verdict = "outside the noise" if row.difference.outside_noise else row.verdict
    return f"{against}, n = {row.difference.n}: {gap} points{over}, {verdict}."


def notes(comparison: Comparison) -> list[str]:
    """Say what is missing and what makes the runs less comparable, one sentence each."""
    found = [f"{cell.name} {cell.state}." for cell in comparison.cells if cell.reason is not None]
    absent = [cell.name for cell in comparison.cells if cell.state == NOT_RUN]
    if absent:
        more = f"; and {len(absent) - LISTED:,} more" if len(absent) > LISTED else ""
        found.append(f"Not run: {'; '.join(absent[:LISTED])}{more}.")
    if comparison.implied:
        differing = [_with_values(comparison, key) for key in comparison.implied]
        found.append(
            "Besides what was swept, these settings differ between combinations, because a choice "
            f"brings its own: {', '.join(differing)}."
        )
    configs = [cell.config for cell in comparison.cells if cell.config is not None]
    if len(comparison.rows) > 1 and any(each.get("teacher.cache") for each in configs):
        found.append(
            "Speeds differ for another reason too: with teacher.cache the first run computes the "
            "rows that later ones read."
        )
    else:
        found += _uneven_speeds(comparison)
    return found + provenance.warnings(arms(comparison))


def _uneven_speeds(comparison: Comparison) -> list[str]:
    """Say that speeds are not comparable where the runs of one combination differ in theirs."""
    ranges: dict[str, tuple[float, float]] = {}
    for row in comparison.rows:
        speeds = [each.result.images_per_second for each in row.cells if each.result is not None]
        if speeds and min(speeds) > 0:
            ranges[row.name] = min(speeds), max(speeds)
    uneven = {name: pair for name, pair in ranges.items() if pair[1] > _UNEVEN * pair[0]}
    if len(ranges) < 2 or not uneven:
        return []
    name, (low, high) = max(uneven.items(), key=lambda each: each[1][1] / each[1][0])
    return [
        f"Speeds say little: the runs of {name} had {low:,.0f} to {high:,.0f} images/s, with other "
        "work beside them perhaps."
    ]


def _with_values(comparison: Comparison, key: str) -> str:
    configs = [cell.config for cell in comparison.cells if cell.config is not None]
    values = list(dict.fromkeys(str(config.get(key, ABSENT)) for config in configs))
    more = f" and {len(values) - LISTED:,} more" if len(values) > LISTED else ""
    return f"{key} ({', '.join(values[:LISTED])}{more})"


def arms(comparison: Comparison) -> dict[str, list[RunRecord]]:
    """Return the runs that have a headline, by combination, as a report names them."""
    found = {
        row.name: [
            RunRecord(Path(cell.folder or "."), cell.result, [], None)
            for cell in row.cells
            if cell.result is not None and cell.state == DONE
        ]
        for row in comparison.rows
    }
    return {name: runs for name, runs in found.items() if runs}


def points(fraction: float) -> str:
    """Write a difference of fractions in percentage points, signed, two decimals."""
    return f"{round(100 * fraction, 2) + 0.0:+.2f}"


def _figures(row: Combination) -> list[str]:
    scores = [UNKNOWN if value is None else percent(value) for value in (row.mean, row.std)]
    images = UNKNOWN if row.images_per_second is None else f"{row.images_per_second:,.0f}"
    return [*(row.labels.values() or [row.name]), str(row.n), *scores, images]


def _row(row: Combination) -> list[str]:
    *words, images = _figures(row)
    words += ["", "", ""] if row.is_baseline else _difference(row.difference)
    speed = UNKNOWN if row.relative_speed is None else f"{row.relative_speed:.2f}"
    return [*words, row.verdict, images, speed]


def _difference(gap: PairedDifference | None) -> list[str]:
    if gap is None:
        return [UNKNOWN] * 3
    return [points(gap.value), _interval(gap) or UNKNOWN, p_words(gap.p_corrected)]


def _interval(gap: PairedDifference) -> str:
    if gap.low is None or gap.high is None:
        return ""
    return f"{points(gap.low)} to {points(gap.high)}"


def p_words(p: float | None) -> str:
    """Write a p-value, three decimals."""
    if p is None:
        return UNKNOWN
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(comparison: Comparison) -> str:
    counts = [row.n for row in comparison.rows if row.n]
    if not counts:
        return "none yet"
    low, high = min(counts), max(counts)
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def _images(comparison: Comparison) -> str:
    runs = arms(comparison)
    return f" Images: {provenance.images(runs)}." if runs and provenance.same_images(runs) else ""


def _baseline(comparison: Comparison) -> str:
    named = " ".join(f"{key}={value}" for key, value in comparison.baseline.items())
    own = [key for key in comparison.keys if key not in comparison.baseline]
    return f"{named} of the same {' and '.join(own)}" if own else named or "the baseline"


def _tests(comparison: Comparison) -> str:
    tested = comparison.tested
    if not tested:
        return (
            "There is no interval, no test and no verdict: they need two shared seeds that differ."
        )
    halves = [100 * each.half_width for each in tested if each.half_width is not None]
    low, high = f"{min(halves):.2f}", f"{max(halves):.2f}"
    smallest = low if low == high else f"{low} to {high}"
    fewest = min(each.n for each in tested)
    words = (
        "The interval is of 95 %, from the t distribution; p is that of a paired t-test over the "
        f"shared seeds, corrected for {provenance.counted(len(tested), 'test')} (Holm). Inside the "
        f"noise: the corrected p is not below {LEVEL}"
    )
    # Intervals are not corrected.
    words += ", even where an interval leaves out 0. " if len(tested) > 1 else ". "
    if fewest <= FEW_SEEDS:
        words += f"With {fewest} shared seeds only large effects can be seen: the"
    else:
        words += "The"
    words += f" smallest difference that one test alone could have shown here is {smallest} points"
    if len(tested) > 1:
        strict = t_quantile(1 - LEVEL / 2 / len(tested), fewest - 1)
        factor = strict / t_quantile(1 - LEVEL / 2, fewest - 1)
        words += f" (half an interval), up to {factor:,.1f} times that after the correction."
    else:
        words += " (half an interval)."
    return words
