"""What a run leaves behind and how it is told: results, tables, pictures, the report."""

from rlkd.reporting.compare import compare_arms
from rlkd.reporting.environment import hardware, versions
from rlkd.reporting.metrics import read_metrics, write_metrics
from rlkd.reporting.pages import (
    class_by_class,
    comparison_markdown,
    comparison_table,
    in_full,
    write_report,
)
from rlkd.reporting.policy import PolicyMap, pool
from rlkd.reporting.predictions import DrawnBox, PredictionRow, write_predictions
from rlkd.reporting.record import RunRecord, read_run
from rlkd.reporting.result import ImageCounts, Result
from rlkd.reporting.scores import AnyScores, DetectionScores, Scores
from rlkd.reporting.table import print_cells

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
