"""A comparison as it leaves the program: on a terminal, as Markdown, as CSV, as one HTML page."""

import math
import os
from collections.abc import Sequence
from dataclasses import astuple, fields
from html import escape
from pathlib import Path

from rich.table import Table

from rlkd.reporting import provenance
from rlkd.reporting.comparison import Cell, Comparison
from rlkd.reporting.comparison_words import arms, caption, notes, table_words, words_columns
from rlkd.reporting.dot_plot import Dots, dot_plot
from rlkd.reporting.escaping import csv_text, markdown, markdown_code
from rlkd.reporting.files import write_text
from rlkd.reporting.page import facts, figure, page, table
from rlkd.reporting.pictures import WIDTH, Picture
from rlkd.reporting.report import duration
from rlkd.reporting.result import ImageCounts
from rlkd.reporting.svg import NEUTRAL, arm_colour
from rlkd.reporting.table import terminal_table, to_markdown
from rlkd.reporting.words import UNKNOWN, percent


def comparison_table(comparison: Comparison, *, title: str = "") -> Table:
    """Return the table for a terminal, with its caption and what to be wary of under it."""
    under = [caption(comparison), *notes(comparison)]
    left = words_columns(comparison)
    return terminal_table(table_words(comparison), title, left=left, under=under)


def comparison_markdown(comparison: Comparison) -> str:
    """Return the table in Markdown, with its caption and what to be wary of under it."""
    words = to_markdown(table_words(comparison), left=words_columns(comparison))
    wary = "\n".join(f"- {markdown(each)}" for each in notes(comparison))
    return "\n\n".join([words, markdown(caption(comparison)), *([wary] if wary else [])]) + "\n"


def comparison_csv(comparison: Comparison) -> str:
    """Return one line a combination; scores are fractions, and empty is not known."""
    means = [f"{comparison.kind.column}_{each}" for each in ("mean", "std")]
    header = [*comparison.keys, "n", "planned", *means, "shared_seeds"]
    header += ["difference", "interval_low", "interval_high", "p", "p_corrected", "verdict"]
    lines: list[list[object]] = []
    for row in comparison.rows:
        gap = row.difference
        told = (gap.value, gap.low, gap.high, gap.p, gap.p_corrected) if gap else (None,) * 5
        lines.append(
            [
                *(row.labels[key] for key in comparison.keys),
                *(row.n, len(row.cells), row.mean, row.std, gap.n if gap else None),
                *told,
                *(row.verdict, row.images_per_second, row.relative_speed),
            ]
        )
    return csv_text([[*header, "images_per_second_median", "relative_speed"], *lines])


def comparison_runs_csv(comparison: Comparison) -> str:
    """Return one line a run, missing ones included; scores are fractions."""
    kind = comparison.kind
    figures = [*kind.headings, f"validation_{kind.column}", "images_per_second", "wall_seconds"]
    figures += [f"images_{each.name}" for each in fields(ImageCounts)]
    header = [*comparison.keys, "seed", "state", "epochs", *figures, "config_sha256", "folder"]
    absent = [None] * (len(figures) + 2)
    return csv_text([header, *(_run(comparison.keys, cell, absent) for cell in comparison.cells)])


def comparison_html(
    comparison: Comparison, *, title: str, command: str | None = None, start: Path | None = None
) -> str:
    """Return a page that opens offline: the table, every seed as a dot, and every run.

    Args:
        comparison: What to tell.
        title: What was compared, in words.
        command: The command that ran it; None where it is not known.
        start: The folder that the page goes to, from which run folders are told; None tells them
            as they are.
    """
    words = table_words(comparison)
    told = f"<code>{escape(command)}</code>" if command else "not recorded"
    seeds = ", ".join(map(str, sorted({cell.seed for cell in comparison.cells})))
    origin = [("Seeds", seeds), *_origin(comparison)]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_lead(comparison))}</p>',
        facts([("Command", told), *((name, escape(each)) for name, each in origin)]),
        *(f'<p class="warning">{escape(each)}</p>' for each in notes(comparison)),
        "<h2>Results</h2>",
        table(words.header, words.rows, words_columns(comparison)),
        f'<p class="note">{escape(caption(comparison))}</p>',
        _every_run(comparison, start),
        figure(1, _picture(comparison)),
    ]
    return page(title, "\n".join(parts))


def write_comparison(
    folder: str | Path, comparison: Comparison, *, title: str, command: str | None = None
) -> list[Path]:
    """Write compare.md, compare.csv, runs.csv and compare.html, each whole or not at all.

    Returns:
        The four paths.

    Raises:
        UserError: A file cannot be written.
    """
    folder = Path(folder)
    heading = f"# {markdown(title)}\n\n"
    heading += f"{markdown_code(command)}\n\n" if command else ""
    texts = {
        "compare.md": heading + comparison_markdown(comparison),
        "compare.csv": comparison_csv(comparison),
        "runs.csv": comparison_runs_csv(comparison),
        "compare.html": comparison_html(comparison, title=title, command=command, start=folder),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _lead(comparison: Comparison) -> str:
    runs = arms(comparison)
    size = provenance.counted(len(comparison.rows), "combination")
    if not runs:
        return f"{size}, no run has finished yet"
    done, planned = len(provenance.results(runs)), len(comparison.cells)
    of = f"{done:,} of " if done < planned else ""
    return f"{size}, {of}{provenance.counted(planned, 'run')}, {provenance.epochs(runs)} each"


def _origin(comparison: Comparison) -> list[tuple[str, str]]:
    runs = arms(comparison)
    return [each for each in provenance.origin(runs) if each[0] != "Seeds"] if runs else []


def _run(keys: Sequence[str], cell: Cell, absent: Sequence[None]) -> list[object]:
    labels: list[object] = [*(cell.labels[key] for key in keys), cell.seed, cell.state]
    if cell.result is None:
        return [*labels, *absent, cell.folder]
    result = cell.result
    held_out = result.validation
    figures = [*result.test.figures().values(), held_out.headline if held_out else None]
    figures += [result.images_per_second, result.wall_seconds, *astuple(result.images)]
    return [*labels, result.epochs, *figures, result.config_sha256, cell.folder]


def _picture(comparison: Comparison) -> Picture:
    title = "Every seed"
    if not any(row.n for row in comparison.rows):
        return Picture(title, None, "No run has finished yet.")
    bases = [row for row in comparison.rows if row.is_baseline]
    alone = bases[0].mean if len(bases) == 1 else None
    drawing = dot_plot(
        [
            Dots(
                label=row.name,
                values=[100 * cell.headline for cell in row.cells if cell.headline is not None],
                names=[
                    f"{cell.name}: {percent(cell.headline)} %"
                    for cell in row.cells
                    if cell.headline is not None
                ],
                colour=NEUTRAL if row.is_baseline else arm_colour(0),
                absent=row.missing,
            )
            for row in comparison.rows
        ],
        width=WIDTH,
        title=f"{comparison.kind.headline_words} on the test split after the last epoch, %",
        reference=None if alone is None else 100 * alone,
    )
    shown = "; the dashed line is the baseline's mean" if alone is not None else ""
    legend = (
        "One dot a seed, an upright stroke at the mean of each combination, baselines in grey"
        f"{shown}. Where the dots of two combinations mix, the seed matters as much as the choice."
    )
    return Picture(title, drawing.svg(title), legend)


def _every_run(comparison: Comparison, start: Path | None) -> str:
    measure = f"{comparison.kind.headline_name}, %"
    header = [*comparison.keys, "seed", "state", "epochs", measure, "images/s", "duration"]
    rows = [_run_words(comparison.keys, cell, start) for cell in comparison.cells]
    words = (*comparison.keys, "state", "images", "folder")
    folded = table([*header, "images", "folder"], rows, words)
    return f"<details><summary>Every run</summary>{folded}</details>"


def _run_words(keys: Sequence[str], cell: Cell, start: Path | None) -> list[str]:
    folder = cell.folder or ""
    if folder and start is not None:
        folder = os.path.relpath(folder, start)
    words = [*(cell.labels[key] for key in keys), str(cell.seed), cell.state]
    if cell.result is None or cell.headline is None:
        return [*words, *[UNKNOWN] * 5, folder]
    speed = cell.result.images_per_second
    told = f"{speed:,.0f}" if math.isfinite(speed) else UNKNOWN
    lasted = duration(cell.result.wall_seconds)
    words += [f"{cell.result.epochs:,}", percent(cell.headline), told, lasted]
    return [*words, cell.result.images.words, folder]
