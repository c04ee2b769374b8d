"""The report of a comparison: what ran, the tables, the pictures, one file."""

import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rlkd.reporting import pictures, provenance, score_pictures
from rlkd.reporting.by_class import NAME, class_by_class, in_full, networks_of
from rlkd.reporting.compare import compare_arms
from rlkd.reporting.comparison_words import caption, notes, table_words, words_columns
from rlkd.reporting.files import write_text
from rlkd.reporting.page import facts, figure, page, table
from rlkd.reporting.record import RunRecord
from rlkd.reporting.result import Result
from rlkd.reporting.scores import Kind
from rlkd.reporting.words import UNKNOWN, percent, sentence

Arms = Mapping[str, Sequence[RunRecord]]


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
        title: What was compared, in words.
        command: The command that ran it; None where it is not known.
        baseline: The arm that the others are compared with; None takes the first.

    Raises:
        UserError: There is no run, the runs are of two kinds of task, an arm has a seed twice, the
            baseline is not an arm, or the file cannot be written.
    """
    comparison = compare_arms(arms, baseline)
    kind, words = comparison.kind, table_words(comparison)
    drawn = (
        score_pictures.headline(arms, kind),
        *score_pictures.others(arms, kind),
        pictures.temperature(arms),
        pictures.policy(arms),
        pictures.reward(arms),
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(provenance.lead(arms))}</p>',
        facts(_header(arms, command)),
        *(f'<p class="warning">{escape(each)}</p>' for each in notes(comparison)),
        "<h2>Results</h2>",
        table(words.header, words.rows, words_columns(comparison)),
        f'<p class="note">{escape(caption(comparison))}</p>',
        _every_run(arms, kind, Path(path).parent),
        *_by_class(arms, kind),
        *(figure(i, picture) for i, picture in enumerate(drawn, start=1)),
    ]
    write_text(path, page(title, "\n".join(parts)))


def _header(arms: Arms, command: str | None) -> list[tuple[str, str]]:
    told = f"<code>{escape(command)}</code>" if command else "not recorded"
    origin = [(name, escape(words)) for name, words in provenance.origin(arms)]
    return [("Command", told), *origin]


def _by_class(arms: Arms, kind: Kind) -> list[str]:
    """Write every figure and those of each class; nothing where no class's figure is known."""
    networks = networks_of(arms)
    classes = class_by_class(networks)
    if not classes:
        return []
    tables = [table(each.header, each.rows, (NAME,)) for each in (in_full(networks), *classes)]
    note = (
        f"{sentence(kind.headline_words)} of each class, in per cent, on the test split; a "
        f"student's figures are means over its runs. {UNKNOWN}: the split has no such object, or a "
        "run diverged."
    )
    return [f"<h2>{kind.noun} by class</h2>", *tables, f'<p class="note">{note}</p>']


def _every_run(arms: Arms, kind: Kind, start: Path) -> str:
    """Write one line a run, folded away."""
    words = ("arm", "images", "configuration", "folder")
    held_out = any(result.validation for result in provenance.results(arms))
    header = ["arm", "seed", "epochs", *kind.headings.values(), "images/s", "duration"]
    header += [f"validation {kind.headings[kind.column]}"] if held_out else []
    header += ["images", "configuration", "folder"]
    rows = [
        [label, *_run(run.result, held_out), os.path.relpath(run.folder, start)]
        for label, runs in arms.items()
        for run in runs
    ]
    folded = table(header, rows, words)
    return f"<details><summary>Every run</summary>{folded}</details>"


def _run(result: Result, held_out: bool) -> list[str]:
    test, validation = result.test, result.validation
    words = [
        str(result.seed),
        f"{result.epochs:,}",
        *test.words(test.figures()).values(),
        f"{result.images_per_second:,.0f}" if math.isfinite(result.images_per_second) else UNKNOWN,
        duration(result.wall_seconds),
    ]
    if held_out:
        words.append(percent(validation.headline) if validation else UNKNOWN)
    return [*words, result.images.words, result.config_sha256[:12]]


def duration(seconds: float) -> str:
    """Write a duration as h:mm:ss."""
    if not math.isfinite(seconds):
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}"
