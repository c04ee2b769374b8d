"""Scores in full and class by class: the teacher first, then every student."""

import statistics
from collections.abc import Mapping, Sequence

from rlkd.reporting import provenance
from rlkd.reporting.record import RunRecord
from rlkd.reporting.scores import AnyScores
from rlkd.reporting.table import Cells
from rlkd.reporting.words import UNKNOWN, percent

NAME = "network"
COLUMNS = 8


def in_full(networks: Mapping[str, Sequence[AnyScores]]) -> Cells:
    """Put every figure in words, one network a row.

    Args:
        networks: A name to the scores of its runs, all of one kind, of which the mean is told.
    """
    rows: list[list[str]] = []
    headings: list[str] = []
    for name, runs in networks.items():
        words = runs[0].words(_mean([each.figures() for each in runs]))
        headings = list(words)
        rows.append([name, *words.values()])
    return Cells([NAME, *headings], rows)


def class_by_class(networks: Mapping[str, Sequence[AnyScores]]) -> list[Cells]:
    """Put the headline of each class in words, in per cent, one network a row.

    Args:
        networks: A name to the scores of its runs, all of one kind, of which the mean is told.

    Returns:
        Tables of at most eight classes each; none where no class's figure is known.
    """
    known = {name: _mean([each.by_class() for each in runs]) for name, runs in networks.items()}
    classes = list(dict.fromkeys(each for figures in known.values() for each in figures))
    tables: list[Cells] = []
    for start in range(0, len(classes), COLUMNS):
        shown = classes[start : start + COLUMNS]
        rows = [
            [name, *(percent(each[key]) if key in each else UNKNOWN for key in shown)]
            for name, each in known.items()
        ]
        tables.append(Cells([NAME, *shown], rows))
    return tables


def networks_of(arms: Mapping[str, Sequence[RunRecord]]) -> dict[str, list[AnyScores]]:
    """Return the scores on the test split by network: the teacher, then the arms' students.

    Where the arms had different teachers, each arm's is told.
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


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure that all runs have; NaN where one of them has NaN."""
    common = [key for key in figures[0] if all(key in each for each in figures)]
    return {key: statistics.fmean(each[key] for each in figures) for key in common}
