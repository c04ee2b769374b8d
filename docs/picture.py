"""Draws the README's picture from benchmarks/results: `python docs/picture.py`.

A dot for each seed, a mean with its 95 % interval for each arm, as differences to a constant
temperature of the same seed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlkd.reporting.plotting import INK, PALETTE, SOFT, svg
from rlkd.reporting.statistics.paired_test import PairedDifference, paired_difference

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
PICTURE = HERE / "static" / "seeds.svg"
TITLE = "Test top-1 against a constant temperature, percentage points, seed by seed"
ROWS = (
    ("demo.json", "student alone", "constant T", "student alone"),
    ("demo.json", "random T", "constant T", "random T"),
    ("demo.json", "RLKD", "constant T", "the agent"),
    ("demo_looking.json", "rlkd_looking", "constant", "the agent, paid by a look-ahead"),
)
"""File, arm, its baseline, and what the picture calls it."""


@dataclass(frozen=True)
class Row:
    """An arm of the picture."""

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


def read(file: str, arm: str, baseline: str, name: str) -> Row:
    """Read an arm of a file of results."""
    top1 = json.loads((RESULTS / file).read_text(encoding="utf-8"))["top1"]
    seeds = [seed for seed in top1[baseline] if seed in top1[arm]]
    values, base = ([top1[each][seed] for seed in seeds] for each in (arm, baseline))
    gaps = [100 * (value - zero) for value, zero in zip(values, base, strict=True)]
    label = f"{name}, {len(seeds)} seeds"
    return Row(label, gaps, paired_difference(values, base, list(map(int, seeds))))


def draw(axes: Axes, rows: list[Row]) -> None:
    """Draw the rows, the first at the top."""
    axes.axvline(0, color=INK, linewidth=1)
    for place, row in enumerate(rows):
        colour, difference = PALETTE[place], row.difference
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
    axes.set_xlabel("percentage points; 0 is the constant temperature with the same seed")


def main() -> None:
    """Write the picture."""
    rows = [read(*each) for each in ROWS]

    def fill(figure: Figure) -> None:
        draw(figure.subplots(), rows)

    PICTURE.write_text(svg(TITLE, (720.0, 300.0), fill), encoding="utf-8")


if __name__ == "__main__":
    main()
