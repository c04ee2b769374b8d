"""A report and a comparison as they leave the program: on a terminal, as Markdown, CSV and HTML."""

import hashlib
import math
import os
import statistics
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkd.reporting.escaping import csv_text, markdown, markdown_code, printable
from rlkd.reporting.results import provenance
from rlkd.reporting.results.provenance import Arms, counted
from rlkd.reporting.results.result import ImageCounts, Result
from rlkd.reporting.results.scores import UNKNOWN, AnyScores, percent, sentence
from rlkd.reporting.statistics.comparison import DONE, Cell, Comparison, compare_arms
from rlkd.reporting.tables import (
    SPARE,
    Cells,
    FittedTable,
    caption,
    notes,
    table_words,
    to_markdown,
    words_columns,
)
from rlkd.reporting.tables import arms as arms_of
from rlkd.text_files import write_text

if TYPE_CHECKING:
    import jinja2


def page(template: str, **values: object) -> str:
    """Return an HTML page, with an escape for what no reader of it would see.

    Its policy lets no browser run any script but the one that sorts its tables, nor load anything.

    Args:
        template: A file among the templates.
        **values: What it shows; it escapes every text.
    """
    here = Path(__file__).parent
    script = (here / "templates" / "sort.js").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values |= {"script": script, "script_hash": f"sha256-{digest}"}
    html = environment(here, autoescape=True).get_template(template).render(values)
    return "\n".join(map(printable, html.split("\n")))


def environment(folder: Path, *, autoescape: bool) -> "jinja2.Environment":
    """Return Jinja2's environment for the templates of a package.

    Args:
        folder: The package's; the templates are in a folder of that name.
        autoescape: Whether texts are escaped for HTML.
    """
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder / "templates"),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )


def write_report(
    path: str | Path,
    arms: Arms,
    *,
    title: str,
    command: str | None,
    baseline: str | None = None,
) -> None:
    """Write the report of a comparison as one HTML file that opens offline.

    Args:
        path: The file to write.
        arms: A label to the runs that share it: one configuration, several seeds.
        title: Of the page.
        command: The command that ran it; None where there is none to show.
        baseline: The arm that the others are compared with; None takes the first.

    Raises:
        UserError: There is no run, the runs are of two kinds of task, an arm has a seed twice, the
            baseline is not an arm, or the file cannot be written.
    """
    from rlkd.reporting import charts

    comparison = compare_arms(arms, baseline)
    kind, networks = comparison.kind, networks_of(arms)
    classes = class_by_class(networks)
    drawn = [
        charts.headline(arms, kind),
        *charts.others(arms, kind),
        charts.losses(arms),
        charts.temperature(arms),
        charts.policy(arms),
        charts.reward(arms),
    ]
    html = page(
        "results.html",
        **_shown(comparison, Path(path).parent),
        title=title,
        lead=provenance.lead(arms),
        command=command,
        origin=provenance.origin(arms),
        whole=in_full(networks) if classes else None,
        classes=classes,
        pictures=drawn,
    )
    write_text(path, html)


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


def comparison_html(
    comparison: Comparison, *, title: str, command: str | None = None, start: Path | None = None
) -> str:
    """Return a page that opens offline: the table, every seed as a dot, and every run.

    Args:
        comparison: What it shows.
        title: Of the page.
        command: The command that ran it; None where there is none to show.
        start: The folder that run folders are named from; None leaves their names as they are.
    """
    from rlkd.reporting import charts

    runs = arms_of(comparison)
    lead = f"{counted(len(comparison.rows), 'combination')}, no run has finished yet"
    if runs:
        done, planned = len(provenance.results(runs)), counted(len(comparison.cells), "run")
        of = f"{done:,} of " if done < len(comparison.cells) else ""
        lead = f"{counted(len(comparison.rows), 'combination')}, {of}{planned}"
        lead += f", {provenance.epochs(runs)} each"
    seeds = ", ".join(map(str, sorted({cell.seed for cell in comparison.cells})))
    origin = dict(provenance.origin(runs) if runs else []) | {"Seeds": seeds}
    return page(
        "results.html",
        **_shown(comparison, start),
        title=title,
        lead=lead,
        command=command,
        origin=list(origin.items()),
        classes=[],
        pictures=[charts.every_seed(comparison)],
    )


def comparison_table(comparison: Comparison, *, title: str = "") -> FittedTable:
    """Return the table for a terminal, with its caption and what to be wary of under it."""
    under = [caption(comparison), *notes(comparison)]
    left = words_columns(comparison)
    return FittedTable(table_words(comparison), title, left, under, SPARE)


def comparison_markdown(comparison: Comparison) -> str:
    """Return the table in Markdown, with its caption and what to be wary of under it."""
    words = to_markdown(table_words(comparison), left=words_columns(comparison))
    wary = "\n".join(f"- {markdown(each)}" for each in notes(comparison))
    return "\n\n".join([words, markdown(caption(comparison)), *([wary] if wary else [])]) + "\n"


def comparison_rows(comparison: Comparison) -> dict[str, list[dict[str, object]]]:
    """Return what both CSV files hold, for programs: the combinations, and the runs."""
    tables = {"combinations": _combinations(comparison), "runs": _all_runs(comparison)}
    return {
        name: [dict(zip(map(str, header), line, strict=True)) for line in lines]
        for name, (header, *lines) in tables.items()
    }


def comparison_csv(comparison: Comparison) -> str:
    """Return one line a combination; scores are fractions, and empty is not known."""
    return csv_text(_combinations(comparison))


def _combinations(comparison: Comparison) -> list[list[object]]:
    means = [f"{comparison.kind.column}_{each}" for each in ("mean", "std")]
    header = [*comparison.keys, "n", "planned", *means, "shared_seeds"]
    header += ["difference", "interval_low", "interval_high", "p", "p_corrected", "verdict"]
    lines: list[list[object]] = []
    for row in comparison.rows:
        gap = row.difference
        figures = (gap.value, gap.low, gap.high, gap.p, gap.p_corrected) if gap else (None,) * 5
        lines.append(
            [
                *(row.labels[key] for key in comparison.keys),
                *(row.n, len(row.cells), row.mean, row.std, gap.n if gap else None),
                *figures,
                *(row.verdict, row.images_per_second, row.relative_speed),
            ]
        )
    return [[*header, "images_per_second_median", "relative_speed"], *lines]


def comparison_runs_csv(comparison: Comparison) -> str:
    """Return one line a run, missing ones included; scores are fractions."""
    return csv_text(_all_runs(comparison))


def _all_runs(comparison: Comparison) -> list[list[object]]:
    kind = comparison.kind
    figures = [*kind.headings, f"validation_{kind.column}", "images_per_second", "wall_seconds"]
    figures += [f"images_{each.name}" for each in fields(ImageCounts)]
    header = [*comparison.keys, "seed", "state", "epochs", *figures, "config_sha256", "folder"]

    def line(cell: Cell) -> list[object]:
        labels: list[object] = [*(cell.labels[key] for key in comparison.keys)]
        labels += [cell.seed, cell.state]
        if cell.result is None:
            return [*labels, *[None] * (len(figures) + 2), cell.folder]
        result = cell.result
        held_out = result.validation.headline if result.validation else None
        known = [*result.test.figures().values(), held_out, result.images_per_second]
        known += [result.wall_seconds, *astuple(result.images)]
        return [*labels, result.epochs, *known, result.config_sha256, cell.folder]

    return [list[object](header), *map(line, comparison.cells)]


def in_full(networks: Mapping[str, Sequence[AnyScores]]) -> Cells:
    """Return a table of every figure, one network a row.

    Args:
        networks: A name to the scores of its runs, all of one kind; the table has their means.
    """
    words = {
        name: runs[0].words(_mean([each.figures() for each in runs]))
        for name, runs in networks.items()
    }
    headings = next(iter(words.values()), {})
    return Cells(["network", *headings], [[name, *each.values()] for name, each in words.items()])


def class_by_class(networks: Mapping[str, Sequence[AnyScores]]) -> Cells | None:
    """Return the table of the headline of each class, in per cent, one class a row.

    Args:
        networks: A name to the scores of its runs, all of one kind; the table has their means.

    Returns:
        The table; None where no class's figure is known.
    """
    known = [_mean([each.by_class() for each in runs]) for runs in networks.values()]
    names = list(dict.fromkeys(name for figures in known for name in figures))
    rows = [[name, *(percent(each.get(name, math.nan)) for each in known)] for name in names]
    return Cells(["class", *networks], rows) if rows else None


def networks_of(arms: Arms) -> dict[str, list[AnyScores]]:
    """Return the scores on the test split by network: the teacher, then the arms' students.

    Each arm's teacher is there where they had different ones.
    """
    taught = {
        label: [run.result.teacher for run in runs if run.result.teacher is not None]
        for label, runs in arms.items()
    }
    if provenance.one_teacher(arms):
        taught = {"teacher": [each for runs in taught.values() for each in runs]}
    else:
        taught = {f"teacher of {label}": runs for label, runs in taught.items()}
    found: dict[str, list[AnyScores]] = {name: runs for name, runs in taught.items() if runs}
    for label, runs in arms.items():
        name = f"student {label}" if label in found else label
        found[name] = [run.result.test for run in runs]
    return found


def duration(seconds: float) -> str:
    """Write a duration as h:mm:ss."""
    if not math.isfinite(seconds):
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}"


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure that all runs have; NaN where one of them has NaN."""
    common = [key for key in figures[0] if all(key in each for each in figures)]
    return {key: statistics.fmean(each[key] for each in figures) for key in common}


def _shown(comparison: Comparison, start: Path | None) -> dict[str, Any]:
    """Return what a page of results shows of a comparison: its table, and that of every run."""
    kind, cells = comparison.kind, comparison.cells
    words = table_words(comparison)
    results = (words.header, words.rows, words_columns(comparison))
    held_out = any(cell.result and cell.result.validation for cell in cells)
    columns = ["epochs", *kind.headings.values(), "images/s", "duration"]
    columns += [f"validation {kind.headings[kind.column]}"] if held_out else []
    columns += ["images", "configuration"]
    left = (*comparison.keys, "state", "images", "configuration", "folder")
    rows: list[list[str]] = []
    for cell in cells:
        known = [UNKNOWN] * len(columns)
        if cell.result is not None:
            known = _run(cell.result, held_out)
        folder = cell.folder or ""
        if folder and start is not None:
            folder = os.path.relpath(folder, start)
        labels = [cell.labels[key] for key in comparison.keys]
        rows.append([*labels, str(cell.seed), *known, cell.state, folder])
    header = [*comparison.keys, "seed", *columns, "state", "folder"]
    if all(cell.state == DONE for cell in cells):
        header.remove("state")
        rows = [[*row[:-2], row[-1]] for row in rows]
    return {
        "results": results,
        "runs": (header, rows, left),
        "caption": caption(comparison),
        "notes": notes(comparison),
        "noun": kind.noun,
        "measure": sentence(kind.headline_words),
    }


def _run(result: Result, held_out: bool) -> list[str]:
    speed = result.images_per_second
    words = [
        f"{result.epochs:,}",
        *result.test.words(result.test.figures()).values(),
        f"{speed:,.0f}" if math.isfinite(speed) else UNKNOWN,
        duration(result.wall_seconds),
    ]
    if held_out:
        words.append(percent(result.validation.headline) if result.validation else UNKNOWN)
    return [*words, result.images.words, result.config_sha256[:12]]
