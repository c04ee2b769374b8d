"""A run's record of its temperatures, for what follows it."""

import tempfile
from pathlib import Path

from rlkd.temperature import RecordedMean


def recorded_mean(mean: float = 4.0) -> RecordedMean:
    """A source that follows a run of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "metrics.csv").write_text(f"epoch,temperature/mean\n1,{mean}\n")
        return RecordedMean(like=folder)
