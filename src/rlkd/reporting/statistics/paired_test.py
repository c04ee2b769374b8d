"""Paired statistics over seeds: an interval, a t-test, and a correction for many of them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LEVEL = 0.05
SAME = 1e-9


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A combination minus the baseline, seed by seed."""

    seeds: tuple[int, ...]
    """The seeds that both have, at least one."""
    value: float
    """Mean of the differences over those seeds, a fraction."""
    low: float | None
    """Lower end of the 95 % interval, a fraction; None for one seed, or where every seed has the
    same difference and so no spread can be estimated."""
    high: float | None
    """Upper end of the interval; None where `low` is."""
    p: float | None
    """Two-sided p of the paired t-test, in [0, 1]; None where there is no interval."""
    p_corrected: float | None = None
    """The same, corrected for the number of tests in the table; None where `p` is."""

    @property
    def n(self) -> int:
        """Number of seeds that both have."""
        return len(self.seeds)

    @property
    def half_width(self) -> float | None:
        """Half the interval: the smallest difference that this one test could have seen."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def outside_noise(self) -> bool:
        """The corrected p is below the level; False where nothing was tested."""
        return self.p_corrected is not None and self.p_corrected < LEVEL

    @property
    def verdict(self) -> str:
        """The verdict in words; there is none for one seed."""
        if self.n < 2:
            return "no verdict, one shared seed"
        if self.p_corrected is None:
            if abs(self.value) <= SAME:
                return "inside the noise: equal in every seed"
            return "not tested: the same difference in every seed"
        if not self.outside_noise:
            return "inside the noise"
        return "better" if self.value > 0 else "worse"


def paired_difference(
    values: Sequence[float], baseline: Sequence[float], seeds: Sequence[int]
) -> PairedDifference:
    """Compare two samples that share their seeds, value by value; p is not yet corrected.

    Accuracies are counts over a test split, so that few seeds may well differ by exactly the same
    number of instances. That spread of zero is an accident of counting, from which a t-test would
    conclude with certainty; no test is made then.

    Args:
        values: Finite fractions, one a seed, at least one.
        baseline: The baseline's, in the same order.
        seeds: The seeds, in the same order.

    Source: Student 1908, the t-test of differences with n - 1 degrees of freedom.
    """
    from scipy import stats

    gaps = [a - b for a, b in zip(values, baseline, strict=True)]
    value = statistics.fmean(gaps)
    if len(gaps) < 2 or max(gaps) - min(gaps) <= SAME:
        return PairedDifference(tuple(seeds), value, None, None, None)
    test: Any = stats.ttest_rel(values, baseline)
    low, high = map(float, test.confidence_interval(1 - LEVEL))
    return PairedDifference(tuple(seeds), value, low, high, float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number; the chance of any false finding stays below the level.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    corrected = [0.0] * len(p_values)
    floor = 0.0
    ascending = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, i in enumerate(ascending):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = floor
    return corrected


def t_quantile(share: float, degrees: int) -> float:
    """Return the value below which a share in (0, 1) of the t distribution lies."""
    from scipy import special

    return float(special.stdtrit(degrees, share))
