"""Heat maps: a figure in each cell of a grid, with a colour bar."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlkd.reporting.axes import Axis, tick_labels
from rlkd.reporting.svg import (
    INK,
    SOFT_INK,
    Attributes,
    Drawing,
    Number,
    element,
    escape,
    ink_on,
    line,
    points,
    ramp_colour,
    text,
    text_width,
)

LEFT, TOP, BOTTOM, BAR = 54.0, 34.0, 44.0, 86.0
BAR_SLICES = 48
DIGITS_WIDTH, DIGITS_HEIGHT = 27.0, 16.0


@dataclass(frozen=True, slots=True)
class HeatGrid:
    """Cells of a heat map; the first row of each grid is the lowest bin of the vertical axis."""

    row_edges: list[float]
    column_edges: list[float]
    value: list[list[float | None]]
    count: list[list[int]]

    def known(self) -> list[float]:
        """Return the values of the cells that have one."""
        return [value for row in self.value for value in row if value is not None]


def heat_map(
    grid: HeatGrid,
    *,
    width: Number,
    height: Number,
    x_title: str,
    y_title: str,
    bar: Axis,
    title: str = "",
) -> Drawing:
    """Draw a grid of cells, hatched where there is no value, with a colour bar.

    Args:
        grid: The cells; hovering over one tells its value and its count.
        width: Pixels.
        height: Pixels.
        x_title: What the columns are.
        y_title: What the rows are.
        bar: The colours' axis; light at its low end.
        title: The chart's title; empty for none.
    """
    right, bottom = width - BAR, height - BOTTOM
    cell_width = (right - LEFT) / (len(grid.column_edges) - 1)
    cell_height = (bottom - TOP) / (len(grid.row_edges) - 1)
    parts = [text(0, 14, title, font_weight="600", font_size=13)] if title else []
    for i, row in enumerate(grid.value):
        for j, value in enumerate(row):
            x, y = LEFT + j * cell_width, bottom - (i + 1) * cell_height
            parts.append(_cell(x, y, cell_width, cell_height, value, grid.count[i][j], bar))
    for place, label in _edge_labels(grid.column_edges, LEFT, right):
        parts.append(text(place, bottom + 16, label, text_anchor="middle", fill=SOFT_INK))
    for place, label in _edge_labels(grid.row_edges, bottom, TOP):
        parts.append(text(LEFT - 8, place + 4, label, text_anchor="end", fill=SOFT_INK))
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(text(middle_x, height - 8, x_title, text_anchor="middle", fill=SOFT_INK))
    turned = f"rotate(-90 12 {middle_y:.2f})"
    parts.append(text(12, middle_y, y_title, text_anchor="middle", fill=SOFT_INK, transform=turned))
    parts.append(_colour_bar(bar, right + 22, TOP, bottom))
    return Drawing(width, height, "".join(parts))


def _cell(
    x: float, y: float, width: float, height: float, value: float | None, count: int, bar: Axis
) -> str:
    box: Attributes = {"x": x, "y": y, "width": width, "height": height}
    box |= {"stroke": "#ffffff", "stroke_width": 1}
    if value is None:
        note = element("title", "no instance")
        return element("rect", note, fill="#f3f4f6", **box) + _hatch(x, y, width, height)
    colour = ramp_colour((value - bar.low) / (bar.high - bar.low))
    note = element("title", escape(f"{value:.2f} over {count:,} instances"))
    drawn = element("rect", note, fill=colour, **box)
    if width < DIGITS_WIDTH or height < DIGITS_HEIGHT:
        return drawn
    return drawn + text(
        x + width / 2,
        y + height / 2 + 4,
        f"{value:.1f}",
        text_anchor="middle",
        font_size=11,
        fill=ink_on(colour),
        pointer_events="none",
    )


def _hatch(x: float, y: float, width: float, height: float, spacing: float = 8) -> str:
    """Rule a cell with slanting lines, cut off at its edges."""
    parts: list[str] = []
    offset = spacing
    while offset < width + height:
        start = (x + min(offset, width), y + max(0.0, offset - width))
        end = (x + max(0.0, offset - height), y + min(offset, height))
        parts.append(f"M{points([start])}L{points([end])}")
        offset += spacing
    return element("path", d="".join(parts), stroke="#d1d5db", stroke_width=1)


def _edge_labels(edges: Sequence[float], start: float, end: float) -> list[tuple[float, str]]:
    """Name edges of bins, at most seven of them, both ends included where the bins allow."""
    bins = len(edges) - 1
    stride = next(s for s in range(1, bins + 1) if bins % s == 0 and bins // s <= 6)
    labels = tick_labels([round(edge, 3) for edge in edges[::stride]])
    places = [start + (end - start) * i / bins for i in range(0, bins + 1, stride)]
    return list(zip(places, labels, strict=True))


def _colour_bar(bar: Axis, x: float, top: float, bottom: float) -> str:
    scale = bar.scale(bottom, top)
    slice_height = (bottom - top) / BAR_SLICES
    # Each slice reaches under the next: edges that only touch leave hairlines when scaled.
    parts = [
        element(
            "rect",
            x=x,
            y=top + i * slice_height,
            width=12,
            height=min(2 * slice_height, bottom - top - i * slice_height),
            fill=ramp_colour(1 - (i + 0.5) / BAR_SLICES),
        )
        for i in range(BAR_SLICES)
    ]
    for tick, label in zip(bar.ticks, bar.labels, strict=True):
        parts.append(line(x + 12, scale(tick), x + 16, scale(tick), stroke=INK))
        parts.append(text(x + 20, scale(tick) + 4, label, fill=SOFT_INK))
    centre = x + 6 - text_width(bar.title) / 2
    parts.append(text(max(centre, x - 40), top - 10, bar.title, fill=SOFT_INK))
    return element("g", "".join(parts))
