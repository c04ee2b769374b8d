"""What a run leaves behind and how it is told: results, tables, pictures, the report."""

from rlkd.reporting.pages import (
    class_by_class,
    comparison_markdown,
    comparison_table,
    in_full,
    write_report,
)
from rlkd.reporting.predictions import DrawnBox, PredictionRow, write_predictions
from rlkd.reporting.results.environment import hardware, versions
from rlkd.reporting.results.metrics import read_metrics, write_metrics
from rlkd.reporting.results.policy import PolicyMap, pool
from rlkd.reporting.results.record import RunRecord, read_run
from rlkd.reporting.results.result import ImageCounts, Result
from rlkd.reporting.results.scores import AnyScores, DetectionScores, Scores
from rlkd.reporting.statistics.comparison import compare_arms
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
