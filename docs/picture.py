"""Draws the README's picture from the runs of docs/study.md: `python docs/picture.py`.

A dot for each seed, a mean with its 95 % interval for each contrast that is tested, but DKD's.
"""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkd.reporting import Result
from rlkd.reporting.plotting import INK, PALETTE, SOFT, svg
from rlkd.reporting.statistics.paired_test import PairedDifference, paired_difference

HERE = Path(__file__).parent
RUNS = HERE.parent / "benchmarks" / "results" / "cifar100_small"
PICTURE = HERE / "static" / "seeds.svg"
TITLE = "Differences of test top-1 in percentage points, seed by seed"
STANDARDISED = "look_ahead_standardised"
TEN, FIRST, FRESH = range(10), range(5), range(5, 10)
ROWS = (
    ("rlkd_paper", "constant_4", TEN, "agent, the paper's reward, less constant T = 4"),
    ("rlkd", "constant_4", TEN, "agent, held-out reward, less constant T = 4"),
    ("look_ahead", "constant_4", TEN, "agent, look-ahead reward, less constant T = 4"),
    ("look_ahead", "look_ahead_shuffled", TEN, "of it: which instance gets which temperature"),
    ("look_ahead_shuffled", "look_ahead_mean", TEN, "of it: that temperatures vary"),
    ("look_ahead_mean", "constant_4", TEN, "of it: level and schedule"),
    (
        STANDARDISED,
        "standardised_2",
        FIRST,
        "the same agent over standardised logits, less tau = 2",
    ),
    (STANDARDISED, "standardised_2", FRESH, "the same, on fresh seeds"),
    (STANDARDISED, f"{STANDARDISED}_shuffled", FRESH, "of it: which instance gets which tau"),
    (f"{STANDARDISED}_shuffled", f"{STANDARDISED}_mean", FRESH, "of it: that tau varies"),
    (f"{STANDARDISED}_mean", "standardised_2", FRESH, "of it: level and schedule"),
)
"""Arm, its baseline, their seeds, and what the picture calls the contrast."""


@dataclass(frozen=True)
class Row:
    """A contrast of the picture."""

    name: str
    gaps: list[float]
    """A seed each, in percentage points."""
    difference: PairedDifference

    @property
    def words(self) -> str:
        """The mean and its interval, in percentage points."""
        assert self.difference.low is not None
        assert self.difference.high is not None
        mean, low, high = (
            f"{100 * each:+.2f}".replace("-", "\N{MINUS SIGN}")
            for each in (self.difference.value, self.difference.low, self.difference.high)
        )
        return f"{mean} ({low} to {high})"


def read(arm: str, baseline: str, seeds: range, name: str) -> Row:
    """Read a contrast."""
    values, base = (
        [
            Result.read(RUNS / f"arm={each},seed={seed}" / "result.json").test.headline
            for seed in seeds
        ]
        for each in (arm, baseline)
    )
    gaps = [100 * (value - zero) for value, zero in zip(values, base, strict=True)]
    return Row(name, gaps, paired_difference(values, base, list(seeds)))


def draw(axes: Axes, rows: list[Row]) -> None:
    """Draw the rows, the first at the top."""
    axes.axvline(0, color=INK, linewidth=1)
    for place, row in enumerate(rows):
        colour, difference = PALETTE[place % len(PALETTE)], row.difference
        axes.scatter(row.gaps, [place + 0.16] * len(row.gaps), s=22, color=colour, alpha=0.45, lw=0)
        axes.plot([100 * difference.low, 100 * difference.high], [place] * 2, color=colour, lw=3)
        axes.plot(100 * difference.value, place, "o", color=colour, markersize=8)
        axes.text(0.005, place - 0.3, row.name, transform=axes.get_yaxis_transform(), color=INK)
        axes.text(
            0.995,
            place - 0.3,
            row.words,
            transform=axes.get_yaxis_transform(),
            color=SOFT,
            ha="right",
        )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("percentage points; a dot a seed, lines 95 % intervals")


def main() -> None:
    """Write the picture."""
    rows = [read(*each) for each in ROWS]

    def fill(figure: Figure) -> None:
        draw(figure.subplots(), rows)

    PICTURE.write_text(svg(TITLE, (720.0, 700.0), fill), encoding="utf-8")


if __name__ == "__main__":
    main()
