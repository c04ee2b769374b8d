"""The nouns of a comparison: a run in its place, a combination over its seeds, the whole."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rlkd.reporting.paired import PairedDifference
from rlkd.reporting.result import Result
from rlkd.reporting.scores import Kind

DONE = "done"
NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a comparison, or the place where it is missing.

    Raises:
        ValueError: The cell has both a result and a failure.
    """

    labels: Mapping[str, str]
    """Swept key to its value here, such as method to kd."""
    seed: int
    """The run's seed, by which it is paired."""
    result: Result | None = None
    """What the run came to; None where it was not run or failed."""
    failure: str | None = None
    """Why there is no result; None where there is one, and where the run was not made."""
    config: Mapping[str, object] | None = None
    """The composed configuration, dotted key to value; None where it is not known."""
    folder: str | None = None
    """The run's folder; None where it is not known."""

    def __post_init__(self) -> None:
        if self.result is not None and self.failure is not None:
            raise ValueError(f"{self.name}: a cell has a result or a failure, not both")

    @property
    def name(self) -> str:
        """The overrides that make this run."""
        swept = [f"{key}={value}" for key, value in self.labels.items()]
        return " ".join([*swept, f"seed={self.seed}"])

    @property
    def headline(self) -> float | None:
        """The test split's headline after the last epoch, a fraction; None where not known."""
        if self.result is None or not math.isfinite(self.result.test.headline):
            return None
        return self.result.test.headline

    @property
    def reason(self) -> str | None:
        """Why the run failed, in one line; None where it did not."""
        if self.result is not None and self.headline is None:
            return f"the run diverged, its last epoch has no {self.result.test.noun}"
        return None if self.failure is None else " ".join(self.failure.split())

    @property
    def state(self) -> str:
        """Whether the run is done, not run, or failed and why."""
        if self.reason is not None:
            return f"failed: {self.reason}"
        return NOT_RUN if self.result is None else DONE


@dataclass(frozen=True, slots=True)
class Combination:
    """One value of every swept key, over its seeds."""

    labels: Mapping[str, str]
    """Swept key to value."""
    cells: tuple[Cell, ...]
    """Its runs and the places of those that are missing, in the order given."""
    is_baseline: bool
    """Whether others are compared with this one."""
    n: int
    """Number of runs that have a headline; the figures below are theirs."""
    mean: float | None
    """Mean headline of the test split after the last epoch, a fraction; None without a run."""
    std: float | None
    """Sample standard deviation (divisor n - 1), a fraction; None for fewer than two runs."""
    images_per_second: float | None
    """Training images a second, median over the runs; None where it is not known."""
    relative_speed: float | None
    """That median over the baseline's, 1 for the baseline; None where either is not known."""
    difference: PairedDifference | None
    """The difference to the baseline; None for the baseline, and where no seed is shared."""

    @property
    def name(self) -> str:
        """The values, in words."""
        return ", ".join(self.labels.values()) or "all runs"

    @property
    def missing(self) -> str:
        """How many runs failed or were not made, in words; empty where all are there."""
        failed = sum(cell.reason is not None for cell in self.cells)
        absent = len(self.cells) - self.n - failed
        counts = ((failed, "failed"), (absent, NOT_RUN))
        if self.n == 0:
            only = [words for count, words in counts if count]
            return only[0] if len(only) == 1 else f"{failed} failed, {absent} {NOT_RUN}"
        of = f" of {len(self.cells)} "
        return ", ".join(f"{count}{of}{words}" for count, words in counts if count)

    @property
    def verdict(self) -> str:
        """What may be said of the combination against the baseline."""
        if self.n == 0:
            return f"baseline, {self.missing}" if self.is_baseline else self.missing
        if self.is_baseline:
            words = "baseline"
        elif self.difference is None:
            words = "no seed shared with the baseline"
        else:
            words = self.difference.verdict
            if 2 <= self.difference.n < self.n:
                words += f" (over {self.difference.n} shared seeds)"
        return f"{words}; {self.missing}" if self.missing else words


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a sweep came to."""

    keys: tuple[str, ...]
    """The swept keys, without the seed."""
    rows: tuple[Combination, ...]
    """The combinations, in the order in which they are first met."""
    baseline: Mapping[str, str]
    """Swept key to the baseline's value; a key that is left out has each combination's own."""
    implied: tuple[str, ...]
    """Settings besides the swept ones that differ between combinations, as their choices want."""
    kind: Kind
    """The kind of scores that all runs have; that of classification before any run has ended."""

    @property
    def cells(self) -> list[Cell]:
        """Every run and every place of a missing one, combination by combination."""
        return [cell for row in self.rows for cell in row.cells]

    @property
    def tested(self) -> list[PairedDifference]:
        """The differences for which there is a test."""
        found = [row.difference for row in self.rows if row.difference is not None]
        return [each for each in found if each.p is not None]
