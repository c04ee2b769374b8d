"""What a run leaves behind and how it is told: results, tables, pictures, the report."""

from rlkd.reporting.environment import hardware, versions
from rlkd.reporting.metrics import read_metrics, write_metrics
from rlkd.reporting.policy import PolicyMap, pool
from rlkd.reporting.record import RunRecord, read_run
from rlkd.reporting.report import write_report
from rlkd.reporting.result import Result, Scores
from rlkd.reporting.table import Difference, Row, difference, print_table, summarise, to_markdown

__all__ = [
    "Difference",
    "PolicyMap",
    "Result",
    "Row",
    "RunRecord",
    "Scores",
    "difference",
    "hardware",
    "pool",
    "print_table",
    "read_metrics",
    "read_run",
    "summarise",
    "to_markdown",
    "versions",
    "write_metrics",
    "write_report",
]
