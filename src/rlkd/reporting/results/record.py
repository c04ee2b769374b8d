"""A finished run, read from its folder."""

from dataclasses import dataclass
from pathlib import Path

from rlkd.errors import UserError
from rlkd.reporting.results.metrics import read_metrics
from rlkd.reporting.results.policy import PolicyMap
from rlkd.reporting.results.result import Result

RESULT_FILE = "result.json"
METRICS_FILE = "metrics.csv"
POLICY_FILE = "policy.json"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run: its result, its epochs, and its policy where it learnt one."""

    folder: Path
    """The run's folder."""
    result: Result
    """The figures of the last epoch."""
    metrics: list[dict[str, float]]
    """One row an epoch, column to value; a column that is not known is absent."""
    policy: PolicyMap | None
    """The temperature over the two confidences; None where the temperature does not depend on
    the instance."""


def read_run(folder: str | Path) -> RunRecord:
    """Read a run from its folder.

    Raises:
        UserError: The folder is missing, or one of its files is missing or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name the folder of a finished run")
    policy = folder / POLICY_FILE
    return RunRecord(
        folder=folder,
        result=Result.read(folder / RESULT_FILE),
        metrics=read_metrics(folder / METRICS_FILE),
        policy=PolicyMap.read(policy) if policy.exists() else None,
    )
