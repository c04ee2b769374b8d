"""Line charts: means with bands, and fans of quantiles, over epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlkd.reporting.axes import Axis, Frame, frame
from rlkd.reporting.svg import (
    GRID,
    NEUTRAL,
    SOFT_INK,
    Attributes,
    Drawing,
    Number,
    element,
    line,
    points,
    shorten,
    text,
    text_width,
)

LABEL_GAP = 16.0
FEW_POINTS = 15


@dataclass(frozen=True, slots=True)
class Series:
    """One line with a band; the four lists are of one length."""

    label: str
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    colour: str
    dash: str = ""

    def finite(self) -> "Series":
        """Return the series without the points of which any figure is NaN or infinite."""
        rows = zip(self.x, self.mean, self.low, self.high, strict=True)
        kept = [row for row in rows if all(math.isfinite(value) for value in row)]
        x, mean, low, high = ([row[i] for row in kept] for i in range(4))
        return Series(self.label, x, mean, low, high, self.colour, self.dash)


@dataclass(frozen=True, slots=True)
class Fan:
    """Quantiles over epochs; the six lists are of one length and finite."""

    x: list[float]
    p05: list[float]
    p25: list[float]
    p50: list[float]
    p75: list[float]
    p95: list[float]
    colour: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A level to compare the lines with."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Mark:
    """An epoch at which something begins."""

    x: float
    label: str


def line_chart(
    series: Sequence[Series],
    *,
    width: Number,
    height: Number,
    x: Axis,
    y: Axis,
    title: str = "",
    reference: Reference | None = None,
    legend: bool = True,
) -> Drawing:
    """Draw lines, each with a band around it, named at their right ends.

    Args:
        series: The lines; points that are not finite are left out.
        width: Pixels.
        height: Pixels.
        x: The horizontal axis.
        y: The vertical axis.
        title: The chart's title; empty for none.
        reference: A level drawn across the plot.
        legend: Whether to name the lines.
    """
    kept = [each for each in (one.finite() for one in series) if each.x]
    names = [shorten(each.label) for each in kept]
    right = 16 + max((text_width(name) for name in names), default=0) + 8 if legend else 16
    plot = frame(width, height, x, y, title=title, right=right)
    parts = [plot.body, *(_band(each, plot) for each in kept)]
    ends: list[tuple[float, str, str]] = []
    if reference:
        place = plot.y(reference.value)
        stroke: Attributes = {"stroke": NEUTRAL, "stroke_dasharray": "2 4"}
        parts.append(line(plot.x.start, place, plot.x.end, place, **stroke))
        name = shorten(reference.label)
        parts.append(text(plot.x.start + 4, place - 5, name, fill=SOFT_INK, font_size=11))
    for each in kept:
        parts.append(_line(each, plot))
        ends.append((plot.y(each.mean[-1]), shorten(each.label), each.colour))
    if legend:
        parts.append(_end_labels(ends, plot.x.end, plot.y.end, plot.y.start))
    return Drawing(width, height, "".join(parts))


def fan_chart(
    fan: Fan,
    *,
    width: Number,
    height: Number,
    x: Axis,
    y: Axis,
    title: str = "",
    mark: Mark | None = None,
) -> Drawing:
    """Draw a distribution over epochs: 5-95 % pale, 25-75 % darker, the median a line."""
    right = 16.0 + text_width("25-75 %") + 26
    plot = frame(width, height, x, y, title=title, right=right)
    parts = [plot.body]
    if mark and plot.x.low < mark.x < plot.x.high:
        parts.append(_mark(mark, plot))
    for low, high, opacity in ((fan.p05, fan.p95, 0.18), (fan.p25, fan.p75, 0.34)):
        parts.append(_area(fan.x, low, high, plot, fan.colour, opacity))
    median = Series("median", fan.x, fan.p50, fan.p50, fan.p50, fan.colour)
    parts.append(_line(median, plot))
    parts.append(_fan_legend(plot, fan.colour))
    return Drawing(width, height, "".join(parts))


def _mark(mark: Mark, plot: Frame) -> str:
    """Rule an upright line and name it on the side that has room."""
    place = plot.x(mark.x)
    fits = place + text_width(mark.label, 11) < plot.x.end
    side, anchor = (5, "start") if fits else (-5, "end")
    ruled = line(place, plot.y.end, place, plot.y.start, stroke=SOFT_INK, stroke_dasharray="2 3")
    return ruled + text(
        place + side, plot.y.end + 11, mark.label, text_anchor=anchor, fill=SOFT_INK, font_size=11
    )


def _places(x: Sequence[float], y: Sequence[float], plot: Frame) -> list[tuple[float, float]]:
    return [(plot.x(a), plot.y(b)) for a, b in zip(x, y, strict=True)]


def _line(series: Series, plot: Frame) -> str:
    places = _places(series.x, series.mean, plot)
    drawn = element(
        "polyline",
        points=points(places),
        fill="none",
        stroke=series.colour,
        stroke_width=1.8,
        stroke_linejoin="round",
        stroke_dasharray=series.dash,
    )
    if len(places) > FEW_POINTS:
        return drawn
    return drawn + "".join(
        element("circle", cx=a, cy=b, r=2.6, fill=series.colour) for a, b in places
    )


def _band(series: Series, plot: Frame) -> str:
    if series.low == series.high:
        return ""
    return _area(series.x, series.low, series.high, plot, series.colour, 0.16)


def _area(
    x: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    plot: Frame,
    colour: str,
    opacity: float,
) -> str:
    """Fill between two lines; one epoch alone has no width, so it is drawn as an upright bar."""
    upper, lower = _places(x, high, plot), _places(x, low, plot)
    if len(x) == 1:
        upper = [(upper[0][0] - 6, upper[0][1]), (upper[0][0] + 6, upper[0][1])]
        lower = [(lower[0][0] - 6, lower[0][1]), (lower[0][0] + 6, lower[0][1])]
    corners = points(upper + lower[::-1])
    return element("polygon", points=corners, fill=colour, fill_opacity=opacity)


def _end_labels(ends: Sequence[tuple[float, str, str]], x: float, top: float, bottom: float) -> str:
    """Name lines beside their ends, apart enough to read, with a thin lead where moved."""
    ordered = sorted(ends)
    places = spread([end[0] for end in ordered], LABEL_GAP, top, bottom)
    parts: list[str] = []
    for (wanted, label, colour), place in zip(ordered, places, strict=True):
        lead = points([(x + 2, wanted), (x + 8, place), (x + 12, place)])
        parts.append(element("polyline", points=lead, fill="none", stroke=colour))
        parts.append(text(x + 16, place + 4, label, fill=colour, font_weight="600"))
    return element("g", "".join(parts))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending places apart by at least `gap`, as little as that takes.

    Args:
        wanted: Ascending places.
        gap: The least distance between two.
        low: The least place.
        high: The greatest place; passed by where there are too many.

    Source: least squares under the distances is isotonic regression of `wanted[i] - i * gap`,
    solved by pooling adjacent violators.
    """
    blocks: list[tuple[float, int]] = []
    for i, place in enumerate(wanted):
        mean, size = place - i * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    moved = [mean for mean, size in blocks for _ in range(size)]
    room = max(low, high - gap * (len(moved) - 1))
    return [min(max(place, low), room) + i * gap for i, place in enumerate(moved)]


def _fan_legend(plot: Frame, colour: str) -> str:
    x, y = plot.x.end + 14, plot.y.end + 8
    parts = [
        line(x, y, x + 16, y, stroke=colour, stroke_width=1.8),
        text(x + 22, y + 4, "median", fill=SOFT_INK),
    ]
    for i, (label, opacity) in enumerate((("25-75 %", 0.52), ("5-95 %", 0.18)), start=1):
        top = y + i * LABEL_GAP
        parts.append(
            element(
                "rect",
                x=x,
                y=top - 5,
                width=16,
                height=10,
                fill=colour,
                fill_opacity=opacity,
                stroke=GRID,
                stroke_width=0.5,
            )
        )
        parts.append(text(x + 22, top + 4, label, fill=SOFT_INK))
    return element("g", "".join(parts))
