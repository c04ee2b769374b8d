"""Plots by matplotlib, as SVG elements that stand in a page by themselves.

Names are drawn as they are spelled: no mathtext, and an escape for characters that are not seen.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator
from matplotlib.transforms import Transform

from rlkd.reporting.escaping import printable
from rlkd.reporting.results.policy import PolicyMap

INK, SOFT, GRID = "#1f2937", "#6b7280", "#e5e7eb"
# Okabe and Ito's colours, which stay apart under colour blindness, in an order that keeps the
# pale ones for last; their yellow is too faint on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
PALE = (4, 5)  # dark letters can be read on these
WIDTH, HALF = 920.0, 448.0
FEW_POINTS, MOST_DIGITS = 15, 12
LABEL_GAP = 16.0
DOTS = (0, (2, 3))
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "font.size": 12,
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.edgecolor": INK,
    "axes.labelcolor": SOFT,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.formatter.useoffset": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": GRID,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": SOFT,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "ytick.major.size": 0,
}

Values = Float[np.ndarray, " epochs"]


class Curve(NamedTuple):
    """Figures over epochs."""

    epoch: Values
    mean: Values
    low: Values
    high: Values

    def since(self, epoch: float) -> "Curve":
        """Keep the figures from an epoch on."""
        return Curve(*(values[self.epoch >= epoch] for values in self))


@dataclass(frozen=True, slots=True)
class Line:
    """A curve with its name and its look."""

    label: str
    curve: Curve
    colour: str
    dash: str = "-"


def svg(title: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Return an SVG element, the same for the same drawing.

    A group whose gid begins with `note:` shows the rest of it where the mouse points.

    Args:
        title: A description for those who cannot see it.
        size: Width and height, pixels.
        draw: Fills an empty figure, of one point a pixel.
    """
    own = STYLE | {"svg.hashsalt": title}
    with matplotlib.style.context(["default", own]), warnings.catch_warnings():
        # The reader's fonts draw the text, so it does not matter which glyphs are missing here.
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure((size[0] / 72, size[1] / 72))
        draw(figure)
        figure.tight_layout(pad=0.4, h_pad=1.5, w_pad=1.5)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Title": title, "Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    label = f' role="img" aria-label="{escape(title)}"'
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', label)
    text = text.replace("xlink:href=", "href=").replace('pt"', '"', 2)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"""<g id=(["'])note:(.*?)\1>""", r"<g><title>\2</title>", text)
    return re.sub(r' id="(?![mhp][0-9a-f]{10}")[^"]*"', "", text)  # pages hold several


def half_size(count: int, height: float, alone: float | None = None) -> tuple[float, float]:
    """Return the size of a figure of `count` plots in two columns; one alone takes all of it."""
    if count == 1 and alone is not None:
        return WIDTH, alone
    return (WIDTH if count > 1 else HALF), height * math.ceil(count / 2)


def grid(figure: Figure, count: int, *, sharey: bool = False) -> list[Axes]:
    """Return `count` axes in two columns."""
    columns = min(2, count)
    places = figure.subplots(math.ceil(count / columns), columns, squeeze=False, sharey=sharey)
    for axes in places.flat:
        axes.tick_params(labelleft=True)
    for axes in places.flat[count:]:
        axes.remove()
    return list(places.flat[:count])


def dress(axes: Axes, name: str, heading: str, epochs: Sequence[float]) -> None:
    """Write the heading of a plot over epochs, the name of its figures, and the epochs.

    Args:
        axes: The plot.
        name: Of the vertical axis, with the unit; it stands above the axis, where it can be read.
        heading: Of the plot; empty for none.
        epochs: The first and the last one, among others.
    """
    axes.set_title(plain(heading, 60), pad=26 if heading else 16)
    _note(axes, name, (0.0, 1.0), (0.0, 9.0), "axes fraction")
    low, high = min(epochs), max(epochs)
    axes.set_xlim(*((low, high) if low < high else (low - 0.5, high + 0.5)))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=(1, 2, 5, 10)))
    if axes.get_yscale() != "log":
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("epoch")


def area(axes: Axes, curve: Curve, colour: str, alpha: float, label: str = "") -> None:
    """Fill between the low and the high of a curve; one epoch alone becomes an upright bar."""
    look: dict[str, Any] = {"color": colour, "alpha": alpha, "linewidth": 0, "label": label}
    axes.fill_between(curve.epoch, curve.low, curve.high, **look)
    if len(curve.epoch) == 1:
        axes.vlines(curve.epoch, curve.low, curve.high, color=colour, alpha=alpha, linewidth=12)


def stroke(axes: Axes, line: Line, label: str = "") -> None:
    """Draw the mean of a line, with its points where they are few."""
    marker = "o" if len(line.curve.epoch) <= FEW_POINTS else ""
    look: dict[str, Any] = {
        "color": line.colour,
        "linestyle": line.dash,
        "marker": marker,
        "clip_on": False,
    }
    axes.plot(line.curve.epoch, line.curve.mean, label=label, **look)


def plot(
    axes: Axes,
    lines: Sequence[Line],
    name: str,
    heading: str = "",
    *,
    level: tuple[str, float] | None = None,
    epochs: Sequence[float] = (),
) -> None:
    """Draw lines, each with a band around it.

    Args:
        axes: The plot.
        lines: The lines, each of at least one epoch.
        name: Of the vertical axis, with the unit.
        heading: Of the plot; empty for none.
        level: A name and the level drawn across the plot.
        epochs: The first and the last one, among others; those of the lines where there are none.
    """
    known = np.concatenate([line.curve.epoch for line in lines]).tolist()
    dress(axes, name, heading, epochs or known)
    for line in lines:
        if (line.curve.low < line.curve.high).any():
            area(axes, line.curve, line.colour, 0.16)
    for line in lines:
        stroke(axes, line)
    if level:
        words, at = level
        axes.axhline(at, color=SOFT, linestyle=DOTS, linewidth=1)
        low, high = axes.get_ylim()
        side, va = (4.0, "bottom") if at < (low + high) / 2 else (-4.0, "top")
        _note(axes, words, (0.0, at), (4.0, side), axes.get_yaxis_transform(), va=va, size=11)


def name_ends(axes: Axes, lines: Sequence[Line], height: float) -> None:
    """Name lines beside their ends, apart enough to read, with a thin lead to each.

    Args:
        axes: The plot, its limits final.
        lines: The lines, each of at least one epoch.
        height: Of the figure, pixels.
    """
    axes.get_ylim()  # brings the limits up to date
    to_axes = axes.transScale + axes.transLimits
    last = [(line.curve.epoch[-1], line.curve.mean[-1]) for line in lines]
    ends = sorted(zip(to_axes.transform(last)[:, 1].tolist(), range(len(lines)), strict=True))
    places = spread([end for end, _ in ends], LABEL_GAP / (height - 76), 0.0, 1.0)
    for (end, i), place in zip(ends, places, strict=True):
        line = lines[i]
        lead = {"arrowstyle": "-", "color": line.colour, "linewidth": 0.8, "shrinkA": 0}
        axes.annotate(
            plain(line.label),
            (1, end),
            xytext=(16, place),
            xycoords="axes fraction",
            textcoords=("offset points", "axes fraction"),
            arrowprops=lead | {"shrinkB": 2, "relpos": (0, 0.5)},
            annotation_clip=False,
            va="center",
            weight="bold",
            color=line.colour,
        )


def heat(axes: Axes, policy: PolicyMap, colour: ScalarMappable, heading: str) -> None:
    """Draw a policy's cells, hatched where no instance fell, with their figures where they fit."""
    (rows, columns), (low, high) = policy.shape, colour.get_clim()
    across, up = policy.student_confidence_edges, policy.teacher_confidence_edges
    for row, column in product(range(rows), range(columns)):
        left, right, bottom, top = *across[column : column + 2], *up[row : row + 2]
        box = Rectangle((left, bottom), right - left, top - bottom, edgecolor="white")
        value = policy.cell(row, column)
        if value is None:
            box.set(facecolor="#f3f4f6", edgecolor="#d1d5db", hatch="//", linewidth=0)
            box.set_gid("note:no instance")
        else:
            share = (value - low) / (high - low)
            box.set_facecolor(colour.get_cmap()(share))
            box.set_gid(f"note:{value:.2f} over {policy.count[row][column]:,} instances")
            if max(rows, columns) <= MOST_DIGITS:
                ink = "white" if share > 0.55 else INK
                middle = (left + right) / 2, (bottom + top) / 2
                axes.text(*middle, f"{value:.1f}", ha="center", va="center", size=11, color=ink)
        axes.add_patch(box)
    axes.set(xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
    axes.set(xlabel="student confidence, probability of its top class", ylabel="teacher confidence")
    axes.set_title(plain(heading, 60), pad=12)
    axes.grid(visible=False)
    axes.spines.bottom.set_visible(False)
    axes.tick_params(length=0, pad=7)
    axes.xaxis.set_major_locator(FixedLocator(across, 6))
    axes.yaxis.set_major_locator(FixedLocator(up, 6))
    bar = axes.figure.colorbar(colour, ax=axes, fraction=0.04, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.set_title("mean T", loc="center", size=12, weight="normal", color=SOFT)


def mark(axes: Axes, x: float, words: str) -> None:
    """Rule an upright line and name it, on the side that has room."""
    axes.axvline(x, color=SOFT, linestyle=DOTS, linewidth=1)
    side, ha = (5.0, "left") if x < np.mean(axes.get_xlim()) else (-5.0, "right")
    _note(axes, words, (x, 1.0), (side, -4.0), axes.get_xaxis_transform(), ha=ha, va="top", size=11)


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


def plain(text: str, limit: int = 28) -> str:
    """Return a text in one line of at most `limit` characters."""
    text = printable(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _note(
    axes: Axes,
    words: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    coordinates: str | Transform,
    **look: Any,
) -> None:
    look |= {"annotation_clip": False, "color": SOFT}
    axes.annotate(plain(words, 80), at, offset, coordinates, "offset points", **look)


def short(value: float) -> str:
    """Write a small number to one figure, such as 2×10⁻⁹."""
    if value == 0:
        return "0"
    digit, power = f"{value:.0e}".split("e")
    times = "" if digit == "1" else f"{digit}\N{MULTIPLICATION SIGN}"
    return f"{times}10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
