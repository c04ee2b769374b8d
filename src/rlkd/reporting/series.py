"""From the epochs of several runs to one line: the mean over seeds, and the spread around it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rlkd.reporting.record import RunRecord


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """A column of metrics.csv over the runs of an arm; the four lists are of one length."""

    epoch: list[float]
    mean: list[float]
    low: list[float]
    """The lowest run."""
    high: list[float]
    """The highest run."""

    def scaled(self, factor: float) -> "OverSeeds":
        """Multiply the figures, not the epochs, by a factor above 0."""
        mean, low, high = (
            [factor * value for value in values] for values in (self.mean, self.low, self.high)
        )
        return OverSeeds(self.epoch, mean, low, high)

    def since(self, epoch: float) -> "OverSeeds":
        """Keep what is from an epoch on."""
        kept = [i for i, each in enumerate(self.epoch) if each >= epoch]
        lists = (self.epoch, self.mean, self.low, self.high)
        at, mean, low, high = ([values[i] for i in kept] for values in lists)
        return OverSeeds(at, mean, low, high)


def over_seeds(records: Sequence[RunRecord], column: str) -> OverSeeds:
    """Gather a column over the runs of an arm.

    An epoch counts the runs that know the column there; epochs that no run knows are left out.
    """
    values: dict[float, list[float]] = {}
    for record in records:
        for row in record.metrics:
            epoch, value = row.get("epoch", math.nan), row.get(column, math.nan)
            if math.isfinite(epoch) and math.isfinite(value):
                values.setdefault(epoch, []).append(value)
    epochs = sorted(values)
    return OverSeeds(
        epoch=epochs,
        mean=[statistics.fmean(values[epoch]) for epoch in epochs],
        low=[min(values[epoch]) for epoch in epochs],
        high=[max(values[epoch]) for epoch in epochs],
    )


def epochs_of(records: Sequence[RunRecord]) -> list[float]:
    """Return every epoch that any of the runs has, ascending."""
    found = {row["epoch"] for record in records for row in record.metrics if "epoch" in row}
    return sorted(epoch for epoch in found if math.isfinite(epoch))
