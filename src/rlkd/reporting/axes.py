"""Axes: from values to pixels, ticks at round values, and the frame around a plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlkd.reporting.svg import GRID, INK, SOFT_INK, Number, element, line, text, text_width

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from values in [low, high] to pixels in [start, end].

    Raises:
        ValueError: The values span nothing, or a logarithmic scale does not begin above 0.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a scale needs low < high, got {self.low} and {self.high}")
        if self.logarithmic and self.low <= 0:
            raise ValueError(f"a logarithmic scale begins above 0, got {self.low}")

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis before it is placed: bounds, ticks, and what they are called."""

    low: float
    high: float
    ticks: list[float]
    labels: list[str]
    title: str
    logarithmic: bool = False

    def scale(self, start: float, end: float) -> Scale:
        """Place the axis between two pixels."""
        return Scale(self.low, self.high, start, end, self.logarithmic)


@dataclass(frozen=True, slots=True)
class Frame:
    """An empty plot: the two scales, and the axes drawn."""

    x: Scale
    y: Scale
    body: str


def nice_step(span: float, about: int) -> float:
    """Return 1, 2 or 5 times a power of ten that cuts a span into about so many pieces."""
    raw = span / about
    magnitude = 10.0 ** math.floor(math.log10(raw))
    return next(f * magnitude for f in (1, 2, 5, 10) if f * magnitude >= raw * (1 - 1e-9))


def nice_ticks(low: float, high: float, about: int = 5, *, whole: bool = False) -> list[float]:
    """Return round values within [low, high], evenly apart; `whole` keeps to integers."""
    step = nice_step(high - low, about)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) if step >= 1e-9 else i * step for i in range(first, last + 1)]


def linear_axis(values: Sequence[float], title: str, *, from_zero: bool = False) -> Axis:
    """Return an axis whose ends are round and hold all values.

    Very small and very large values are written as multiples of a power of ten that the title
    names.

    Args:
        values: Finite values, at least one.
        title: What the values are, with their unit.
        from_zero: Begin the axis at 0.
    """
    low, high = min(values), max(values)
    low = min(0.0, low) if from_zero else low
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = 0.05 * abs(high) or 1.0
        low, high = low - (0 if from_zero else margin), high + margin
    step = nice_step(high - low, 5)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    ticks = nice_ticks(low, high)
    power = math.floor(math.log10(max(abs(low), abs(high))))
    power = power if power < -2 or power > 5 else 0
    if power:
        title = f"{title}, {TIMES}{power_of_ten(power)}"
    return Axis(low, high, ticks, tick_labels([tick / 10.0**power for tick in ticks]), title)


def tight_axis(values: Sequence[float], title: str) -> Axis:
    """Return an axis that ends where the values do, with round ticks in between.

    Args:
        values: Finite values, at least one.
        title: What the values are, with their unit.
    """
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return linear_axis(values, title)
    ticks = nice_ticks(low, high, 8)
    return Axis(low, high, ticks, tick_labels(ticks), title)


def logarithmic_axis(values: Sequence[float], title: str) -> Axis:
    """Return a logarithmic axis that begins and ends at 1, 2 or 5 times a power of ten.

    Args:
        values: Values above 0, at least one.
        title: What the values are, with their unit.
    """
    first = math.floor(math.log10(min(values))) - 1
    last = math.ceil(math.log10(max(values))) + 1
    candidates = [(f, p) for p in range(first, last + 1) for f in (1, 2, 5)]
    low = max(f * 10.0**p for f, p in candidates if f * 10.0**p <= min(values))
    high = min(f * 10.0**p for f, p in candidates if f * 10.0**p > max(values))
    inside = [(f, p) for f, p in candidates if low * 0.999 <= f * 10.0**p <= high * 1.001]
    decades = [(f, p) for f, p in inside if f == 1]
    shown = decades if len(decades) > 2 else inside
    labels = [power_of_ten(p) if f == 1 else f"{f}{TIMES}{power_of_ten(p)}" for f, p in shown]
    return Axis(low, high, [f * 10.0**p for f, p in shown], labels, title, logarithmic=True)


def epoch_axis(epochs: Sequence[float]) -> Axis:
    """Return an axis over epochs: its ends are the data's, its ticks whole numbers."""
    low, high = min(epochs), max(epochs)
    if low == high:
        return Axis(low - 0.5, high + 0.5, [low], tick_labels([low]), "epoch")
    ticks = nice_ticks(low, high, 6, whole=True)
    return Axis(low, high, ticks, tick_labels(ticks), "epoch")


def power_of_ten(power: int) -> str:
    """Write a power of ten with a raised exponent."""
    return f"10{str(power).translate(SUPERSCRIPT)}"


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Write ticks with as many decimals as tell them apart, and no more."""
    for decimals in range(9):
        if all(abs(tick - round(tick, decimals)) < 1e-9 for tick in ticks):
            break
    else:
        decimals = 9
    return [f"{tick + 0.0:,.{decimals}f}".replace("-", MINUS) for tick in ticks]


def frame(
    width: Number, height: Number, x: Axis, y: Axis, *, title: str = "", right: Number = 16
) -> Frame:
    """Draw the axes of a plot.

    Args:
        width: Of the whole chart, pixels.
        height: Of the whole chart, pixels.
        x: The horizontal axis.
        y: The vertical axis; its title stands above it, where it can be read.
        title: The chart's title; empty for none.
        right: Room to the right of the plot, pixels.
    """
    left = 12 + max(text_width(label) for label in y.labels)
    top = 46.0 if title else 26.0
    bottom, edge = float(height - 40), float(width - right)
    x_scale, y_scale = x.scale(left, edge), y.scale(bottom, top)
    parts: list[str] = []
    if title:
        parts.append(text(0, 14, title, font_weight="600", font_size=13))
    parts.append(text(0, top - 12, y.title, fill=SOFT_INK))
    for tick, label in zip(y.ticks, y.labels, strict=True):
        place = y_scale(tick)
        parts.append(line(left, place, edge, place, stroke=GRID))
        parts.append(text(left - 8, place + 4, label, text_anchor="end", fill=SOFT_INK))
    for tick, label in zip(x.ticks, x.labels, strict=True):
        place = x_scale(tick)
        parts.append(line(place, bottom, place, bottom + 5, stroke=INK))
        parts.append(text(place, bottom + 18, label, text_anchor="middle", fill=SOFT_INK))
    parts.append(line(left, bottom, edge, bottom, stroke=INK))
    middle = (left + edge) / 2
    parts.append(text(middle, height - 6, x.title, text_anchor="middle", fill=SOFT_INK))
    return Frame(x_scale, y_scale, element("g", "".join(parts)))
