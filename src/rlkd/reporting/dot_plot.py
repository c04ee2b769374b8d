"""Dot plots: every value of a group on its own line, and the group's mean."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rlkd.reporting.axes import Axis, frame, linear_axis
from rlkd.reporting.svg import (
    GRID,
    INK,
    NEUTRAL,
    SOFT_INK,
    Attributes,
    Drawing,
    Number,
    element,
    line,
    shorten,
    text,
)

ROW = 26.0
ABOVE, BELOW = 26.0, 40.0
LABEL_LIMIT = 44


@dataclass(frozen=True, slots=True)
class Dots:
    """A group: one dot a value."""

    label: str
    values: list[float]
    """Finite; may be empty."""
    names: list[str]
    """What each value is, told where the mouse points; of the same length."""
    colour: str
    absent: str = ""
    """What stands on the line of a group without values."""


def dot_plot(
    groups: Sequence[Dots], *, width: Number, title: str, reference: float | None = None
) -> Drawing:
    """Draw the groups from top to bottom, their values from left to right.

    Args:
        groups: At least one group with a value.
        width: Pixels; the height follows from the number of groups.
        title: Of the horizontal axis, with the unit.
        reference: A value ruled from top to bottom; None for none.

    Raises:
        ValueError: No group has a value.
    """
    values = [value for group in groups for value in group.values]
    if not values:
        raise ValueError("a dot plot needs a value")
    height = ABOVE + ROW * len(groups) + BELOW
    rows = [len(groups) - i - 0.5 for i in range(len(groups))]
    labels = [shorten(group.label, LABEL_LIMIT) for group in groups]
    y = Axis(0.0, float(len(groups)), rows, labels, "")
    x = linear_axis(values, title)
    plot = frame(width, height, x, y)
    parts = [plot.body]
    top, bottom = plot.y.end, plot.y.start
    parts += [line(plot.x(t), top, plot.x(t), bottom, stroke=GRID) for t in x.ticks]
    if reference is not None:
        stroke: Attributes = {"stroke": NEUTRAL, "stroke_dasharray": "4 3"}
        parts.append(line(plot.x(reference), top, plot.x(reference), bottom, **stroke))
    for group, row in zip(groups, rows, strict=True):
        place = plot.y(row)
        if not group.values:
            parts.append(text(plot.x.start + 6, place + 4, group.absent, fill=SOFT_INK))
            continue
        mean = plot.x(statistics.fmean(group.values))
        parts.append(line(mean, place - 8, mean, place + 8, stroke=INK, stroke_width=1.8))
        for value, name in zip(group.values, group.names, strict=True):
            parts.append(_dot(plot.x(value), place, name, group.colour))
    return Drawing(width, height, "".join(parts))


def _dot(x: float, y: float, name: str, colour: str) -> str:
    told = element("title", escape(name))
    return element("circle", told, cx=x, cy=y, r=4, fill=colour, fill_opacity=0.7)
