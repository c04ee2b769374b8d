"""The charts of a report: what is plotted, and the sentence under it."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, product
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from rlkd.errors import UserError
from rlkd.reporting import plotting
from rlkd.reporting.escaping import printable
from rlkd.reporting.plotting import INK, PALETTE, SOFT, WIDTH, Curve, Line
from rlkd.reporting.results.policy import PolicyMap, pool
from rlkd.reporting.results.record import RunRecord
from rlkd.reporting.results.scores import Kind, percent, sentence
from rlkd.reporting.statistics.comparison import Comparison

Arms = Mapping[str, Sequence[RunRecord]]
"""A label to the runs that share it."""

T = TypeVar("T")
HEIGHT = 340.0
TAIL, LEAST_TAIL = 0.1, 4
QUANTILES = ("p05", "p25", "p50", "p75", "p95")
VARIES = 1e-6
DASHES = ("-", "--", ":")
_TERM = "train/loss_"


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart with its heading and its caption."""

    title: str
    svg: str | None
    """An SVG element; None where the runs hold no data for it."""
    caption: str
    """The description of the chart; where there is none, the reason."""


def over_seeds(runs: Sequence[RunRecord], column: str, factor: float = 1.0) -> Curve:
    """Gather a column over the runs of an arm.

    An epoch counts the runs that have the column there; epochs that no run has are left out.

    Args:
        runs: The runs.
        column: Of metrics.csv.
        factor: Above 0; multiplies the figures.
    """
    values: dict[float, list[float]] = {}
    for row in (row for run in runs for row in run.metrics):
        epoch, value = row.get("epoch", math.nan), row.get(column, math.nan)
        if math.isfinite(epoch) and math.isfinite(value):
            values.setdefault(epoch, []).append(factor * value)
    rows = [(at, statistics.fmean(v), min(v), max(v)) for at, v in sorted(values.items())]
    return Curve(*np.asarray(rows).reshape(-1, 4).T)


def headline(arms: Arms, kind: Kind) -> Picture:
    """Plot the headline on the test split over epochs, all of them and the last ones closer."""
    title = f"Test {kind.noun} over training"
    lines = _lines(arms, kind.column)
    if not lines:
        return Picture(title, None, f"No run recorded test {kind.noun} over its epochs.")
    epochs = np.concatenate([line.curve.epoch for line in lines])
    since = epochs.max() - TAIL * (epochs.max() - epochs.min())
    tails = [replace(line, curve=line.curve.since(since)) for line in lines]
    sizes = [len(line.curve.epoch) for line in tails]
    name = f"{kind.headline_words} on the test split, %"
    teacher = _teacher(arms, kind.column)

    def draw(figure: Figure) -> None:
        if min(sizes) == 0 or max(sizes) < LEAST_TAIL:
            axes = figure.subplots()
            plotting.plot(axes, lines, name, level=teacher)
            plotting.name_ends(axes, lines, HEIGHT)
            return
        whole, nearer = figure.subplots(1, 2, width_ratios=(1.2, 1))
        plotting.plot(whole, lines, name, "All epochs", level=teacher)
        plotting.plot(nearer, tails, name, f"From epoch {math.ceil(since):,}")
        plotting.name_ends(nearer, tails, HEIGHT)

    caption = (
        f"{sentence(kind.noun)} on the test split{_band_words(arms)}; nothing was selected on it, "
        "and the table takes the last epoch, not the best."
    )
    return Picture(title, plotting.svg(title, (WIDTH, HEIGHT), draw), caption)


def others(arms: Arms, kind: Kind) -> list[Picture]:
    """Plot the figures of the kind that are drawn besides its headline, side by side.

    Returns:
        One picture; none where the headline stands alone, or no run recorded the others.
    """
    found = {column: lines for column in kind.curves if (lines := _lines(arms, column))}
    if not found:
        return []

    def draw(figure: Figure) -> None:
        for axes, (column, lines) in _panels(figure, found):
            plotting.plot(axes, lines, kind.headings[column], level=_teacher(arms, column))
            plotting.name_ends(axes, lines, 280.0)

    names = " and ".join(kind.headings[column].removesuffix(", %") for column in found)
    title = f"Test {names} over training"
    size = plotting.half_size(len(found), 280.0)
    return [
        Picture(title, plotting.svg(title, size, draw), f"On the test split{_band_words(arms)}.")
    ]


def temperature(arms: Arms) -> Picture:
    """Plot the distribution of the temperature over epochs, for the arms in which it varies."""
    title = "Temperatures that training instances were given"
    recorded = {label: _quantiles(runs) for label, runs in arms.items()}
    fans = {label: fan for label, fan in recorded.items() if _varies(fan)}
    if not fans:
        why = "In no arm does the temperature vary, over instances or over epochs."
        known = any(fan.size for fan in recorded.values())
        return Picture(title, None, why if known else "No run recorded its temperatures.")
    epochs = _epochs(fans, arms)

    def draw(figure: Figure) -> None:
        for axes, (label, fan) in _panels(figure, fans, sharey=True):
            at, low, lower, median, upper, high = fan
            line = _line(arms, label, Curve(at, median, median, median))
            plotting.dress(axes, "temperature T", label, epochs)
            plotting.stroke(axes, line, "median")
            for bottom, top, alpha, name in (
                (lower, upper, 0.34, "25-75 %"),
                (low, high, 0.18, "5-95 %"),
            ):
                plotting.area(axes, Curve(at, median, bottom, top), line.colour, alpha, name)
            axes.update_datalim([(epochs[0], 0.0)])
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05))
            start = over_seeds(arms[label], "agent/reward").epoch
            if len(start) and epochs[0] < start[0] < epochs[-1]:
                plotting.mark(axes, start[0], f"agent from epoch {start[0]:,.0f}")

    caption = (
        "Quantiles of T over the instances of an epoch, each averaged over the seeds; a fan that "
        "stays narrow means that the instances were treated alike. T divides the student's logits; "
        "with temperature.over, it multiplies what that makes of them."
    )
    size = plotting.half_size(len(fans), 250.0, 300.0)
    return Picture(title, plotting.svg(title, size, draw), caption)


def policy(arms: Arms) -> Picture:
    """Plot the mean temperature over the confidences of teacher and student."""
    title = "Mean temperature over confidence"
    maps = {label: each for label, runs in arms.items() if (each := _pooled(label, runs))}
    values = {label: _values(each) for label, each in maps.items()}
    known = {label: each for label, each in maps.items() if values[label]}
    if not known:
        why = "No run recorded temperatures over the confidences: no arm has an agent."
        return Picture(title, None, why)
    every = [value for each in values.values() for value in each]
    margin = 0.05 * abs(max(every)) + VARIES if max(every) - min(every) < VARIES else 0.0
    scale = Normalize(min(every) - margin, max(every) + margin)

    def draw(figure: Figure) -> None:
        colour = ScalarMappable(scale, colormaps["YlGnBu"])
        for axes, (label, each) in _panels(figure, known):
            plotting.heat(axes, each, colour, label)

    caption = (
        "Mean T of the instances in each bin, pooled over the seeds by number of instances; where "
        "T is drawn at random, differences between bins are chance; "
        "hatched bins held none, and a bin that held few says little (point at it for the number)."
    )
    size = (600.0, 460.0) if len(known) == 1 else plotting.half_size(len(known), 360.0)
    return Picture(title, plotting.svg(title, size, draw), caption)


def reward(arms: Arms) -> Picture:
    """Plot the spread of instance rewards before and after calibration."""
    title = "Rewards of instances before and after calibration"
    found: dict[str, list[Line]] = {}
    for label, runs in arms.items():
        even = Line("spread evenly", over_seeds(runs, "agent/reward_even_std"), SOFT)
        after = _line(arms, label, over_seeds(runs, "agent/reward_calibrated_std"))
        both = (even, replace(after, label="calibrated", dash="-"))
        found[label] = [line for line in both if len(line.curve.epoch)]
    found = {label: lines for label, lines in found.items() if lines}
    if not found:
        return Picture(
            title,
            None,
            "No run recorded rewards: no arm has an agent, or none learnt in so many steps.",
        )
    shown = {label: arms[label] for label in found}
    name = "standard deviation of the reward over instances"
    caption = (
        "The spread of the rewards of instances when each batch's reward is divided evenly, and "
        f"after calibration{_band_words(shown)}; where the lines coincide, calibration "
        f"distinguished no instance from another{_sum_error(shown)}."
    )
    return Picture(title, _lines_by_arm(title, found, name, _epochs(found, arms)), caption)


def losses(arms: Arms) -> Picture:
    """Plot the training loss, and its terms where it has several."""
    title = "The training loss and its terms"
    keys = (key for runs in arms.values() for run in runs for row in run.metrics for key in row)
    terms = [key for key in dict.fromkeys(keys) if key.startswith(_TERM)]
    looks = list(zip(terms, cycle(product(DASHES, PALETTE[:-1])), strict=False))
    found: dict[str, list[Line]] = {}
    for label, runs in arms.items():
        whole = Line("loss", over_seeds(runs, "train/loss"), INK)
        parts = [
            Line(term.removeprefix(_TERM).replace("_", " "), over_seeds(runs, term), colour, dash)
            for term, (dash, colour) in looks
        ]
        parts = [part for part in parts if len(part.curve.epoch)]
        found[label] = [whole, *(parts if len(parts) > 1 else ())] if len(whole.curve.epoch) else []
    found = {label: lines for label, lines in found.items() if lines}
    if not found:
        return Picture(title, None, "No run recorded its training loss.")
    shown = {label: arms[label] for label in found}
    several = any(len(lines) > 1 for lines in found.values())
    caption = f"Means over an epoch{', each term weighted' * several}{_band_words(shown)}."
    name = "loss on the training images"
    return Picture(title, _lines_by_arm(title, found, name, _epochs(found, arms)), caption)


def every_seed(comparison: Comparison) -> Picture:
    """Plot the headline of every run of a comparison as a dot, one combination a row."""
    title, rows = "Every seed", comparison.rows
    if not any(row.n for row in rows):
        return Picture(title, None, "No run has finished yet.")
    bases = [row for row in rows if row.is_baseline]
    alone = bases[0].mean if len(bases) == 1 else None
    name = f"{comparison.kind.headline_words} on the test split after the last epoch, %"

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(axis="both")
        for place, row in enumerate(rows):
            look: dict[str, Any] = {"alpha": 0.7, "ms": 8, "mew": 0, "clip_on": False}
            look["color"] = SOFT if row.is_baseline else PALETTE[0]
            for cell in row.cells:
                if cell.headline is not None:
                    note = f"note:{printable(cell.name)}: {percent(cell.headline)} %"
                    axes.plot(100 * cell.headline, place, "o", gid=note, **look)
            if row.mean is None:
                at = axes.get_yaxis_transform()
                words = axes.text(0.01, place, row.missing, color=SOFT, va="center", transform=at)
                words.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 2})
            else:
                axes.plot(100 * row.mean, place, "|", color=INK, ms=16, mew=1.8)
        if alone is not None:
            axes.axvline(100 * alone, color=SOFT, linestyle="--", linewidth=1, zorder=1)
        axes.set(xlabel=name, ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks(range(len(rows)), [plotting.plain(row.name, 44) for row in rows])

    shown = "; the dashed line is the baseline's mean" if alone is not None else ""
    caption = (
        "One dot a seed, an upright stroke at the mean of each combination, baselines in grey"
        f"{shown}. Where the dots of two combinations mix, the seed matters as much as the choice."
    )
    size = (WIDTH, 66.0 + 26 * len(rows))
    return Picture(title, plotting.svg(title, size, draw), caption)


def _lines_by_arm(
    title: str, found: Mapping[str, Sequence[Line]], name: str, epochs: Sequence[float]
) -> str:
    """Draw one plot an arm, on one scale: from zero, or by powers of ten where that shows more."""
    curves = [line.curve for lines in found.values() for line in lines]
    low, high = min(c.low.min() for c in curves), max(c.high.max() for c in curves)
    log = low > 0 and high > 20 * low
    power = 0 if log or high <= 0 else math.floor(math.log10(high))
    power = power if power < -2 else 0
    name += f", \N{MULTIPLICATION SIGN}{plotting.short(10.0**power)}" if power else ""

    def draw(figure: Figure) -> None:
        for axes, (label, lines) in (panels := _panels(figure, found, sharey=True)):
            if log:
                axes.set_yscale("log")
            plotting.plot(axes, lines, name, label, epochs=epochs)
            if log:
                subs = (1.0,) if high > 300 * low else (1.0, 2.0, 5.0)
                axes.yaxis.set_major_locator(LogLocator(subs=subs))
                axes.yaxis.set_minor_locator(NullLocator())
            else:
                axes.update_datalim([(epochs[0], 0.0)])
            axes.yaxis.set_major_formatter(
                lambda y, _: plotting.short(y) if log else f"{y / 10.0**power:,g}"
            )
        for axes, (_, lines) in panels:
            plotting.name_ends(axes, lines, 250.0)

    return plotting.svg(title, plotting.half_size(len(found), 250.0, 300.0), draw)


def _panels(
    figure: Figure, found: Mapping[str, T], *, sharey: bool = False
) -> list[tuple[Axes, tuple[str, T]]]:
    return list(zip(plotting.grid(figure, len(found), sharey=sharey), found.items(), strict=True))


def _line(arms: Arms, label: str, curve: Curve) -> Line:
    """Return a curve in the arm's own colour; the dashes change where the colours repeat."""
    turn, place = divmod(list(arms).index(label), len(PALETTE))
    return Line(label, curve, PALETTE[place], DASHES[turn % 3])


def _lines(arms: Arms, column: str) -> list[Line]:
    """Return a column of the scores on the test split, in per cent, of the arms that have it."""
    lines = (
        _line(arms, *(label, over_seeds(runs, f"test/{column}", 100.0)))
        for label, runs in arms.items()
    )
    return [line for line in lines if len(line.curve.epoch)]


def _teacher(arms: Arms, column: str) -> tuple[str, float] | None:
    """Return the teacher's figure with its name; None where the runs had different ones."""
    teachers = [run.result.teacher for runs in arms.values() for run in runs]
    levels = {each.figures()[column] for each in teachers if each is not None}
    if len(levels) != 1 or not math.isfinite(level := levels.pop()):
        return None
    return f"teacher, {percent(level)} %", 100 * level


def _band_words(arms: Arms) -> str:
    """Describe the line and the band of an arm."""
    if max(len(runs) for runs in arms.values()) == 1:
        return ", one run each, so no spread is known"
    return ", mean over seeds, band from the lowest seed to the highest"


def _quantiles(runs: Sequence[RunRecord]) -> Float[np.ndarray, "6 epochs"]:
    """Return the epochs that have all quantiles of T, and the five quantiles."""
    curves = [over_seeds(runs, f"temperature/{name}") for name in QUANTILES]
    known = [dict(zip(each.epoch, each.mean, strict=True)) for each in curves]
    epochs = sorted(set[float].intersection(*map(set, known)))
    return np.asarray([epochs, *([each[epoch] for epoch in epochs] for each in known)])


def _varies(fan: Float[np.ndarray, "6 epochs"]) -> bool:
    _, low, _, median, _, high = fan
    return fan.size > 0 and bool(max((high - low).max(), np.ptp(median)) > VARIES)


def _epochs(labels: Iterable[str], arms: Arms) -> list[float]:
    """Return every epoch that any run of these arms has, ascending."""
    rows = (row for label in labels for run in arms[label] for row in run.metrics)
    return sorted({row["epoch"] for row in rows if math.isfinite(row.get("epoch", math.nan))})


def _pooled(label: str, runs: Sequence[RunRecord]) -> PolicyMap | None:
    maps = [run.policy for run in runs if run.policy is not None]
    try:
        return pool(maps) if maps else None
    except ValueError as error:
        raise UserError(f"arm {label!r}: {error}; compare runs of one version only") from None


def _values(each: PolicyMap) -> list[float]:
    cells = (each.cell(*place) for place in product(*map(range, each.shape)))
    return [value for value in cells if value is not None]


def _sum_error(arms: Arms) -> str:
    curves = [over_seeds(runs, "agent/reward_calibrated_sum_error") for runs in arms.values()]
    errors = np.abs(np.concatenate([(*each.low, *each.high) for each in curves]))
    if not errors.size:
        return ""
    return f"; the parts add up to the batch's reward within {plotting.short(errors.max())}"
