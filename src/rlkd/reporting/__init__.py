"""The results of runs: as data, compared over seeds, and as tables and pages."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlkd.reporting.results.environment import hardware, versions
from rlkd.reporting.results.metrics import read_metrics, write_metrics
from rlkd.reporting.results.policy import PolicyMap, pool
from rlkd.reporting.results.record import RunRecord, read_run
from rlkd.reporting.results.result import ImageCounts, Result
from rlkd.reporting.results.scores import AnyScores, DetectionScores, Scores
from rlkd.reporting.statistics.comparison import compare_arms

if TYPE_CHECKING:
    from rlkd.reporting.pages import (
        class_by_class,
        comparison_markdown,
        comparison_table,
        in_full,
        write_report,
    )
    from rlkd.reporting.predictions import DrawnBox, PredictionRow, write_predictions
    from rlkd.reporting.tables import print_cells

__all__ = [
    "AnyScores",
    "DetectionScores",
    "DrawnBox",
    "ImageCounts",
    "PolicyMap",
    "PredictionRow",
    "Result",
    "RunRecord",
    "Scores",
    "class_by_class",
    "compare_arms",
    "comparison_markdown",
    "comparison_table",
    "hardware",
    "in_full",
    "pool",
    "print_cells",
    "read_metrics",
    "read_run",
    "versions",
    "write_metrics",
    "write_predictions",
    "write_report",
]
_DRAWN_BY = {
    **dict.fromkeys(("class_by_class", "in_full", "write_report"), "pages"),
    **dict.fromkeys(("comparison_markdown", "comparison_table"), "pages"),
    **dict.fromkeys(("DrawnBox", "PredictionRow", "write_predictions"), "predictions"),
    "print_cells": "tables",
}


def __getattr__(name: str) -> Any:
    """Import tables and pages when they are used: a training loop reads figures and draws none."""
    if name in _DRAWN_BY:
        return getattr(import_module(f"rlkd.reporting.{_DRAWN_BY[name]}"), name)
    raise AttributeError(f"module 'rlkd.reporting' has no attribute {name!r}")
