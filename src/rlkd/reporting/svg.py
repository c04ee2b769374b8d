"""SVG in strings: elements, drawings that can be laid side by side, and the colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK = "#1f2937"
SOFT_INK = "#6b7280"
GRID = "#e5e7eb"
NEUTRAL = "#6b7280"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

# Okabe and Ito's colours, which stay apart under colour blindness, in an order that keeps the
# pale ones for last; their yellow is too faint on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1f2937")
DASHES = ("", "6 3", "2 3")

# Light to dark in one hue family, so that the order survives grey printing (ColorBrewer YlGnBu).
RAMP = ("#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#0c2c84")


Number = float | int
Attributes = dict[str, str | float | int]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A piece of a picture: SVG elements in a box of width x height pixels."""

    width: Number
    height: Number
    body: str

    def svg(self, description: str) -> str:
        """Return the drawing as an SVG element of its own.

        Args:
            description: What the picture shows, for those who cannot see it.
        """
        width, height = number(self.width), number(self.height)
        return element(
            "svg",
            element("title", escape(description)) + self.body,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width} {height}",
            width=width,
            height=height,
            role="img",
            font_family=FONT,
            font_size=12,
            fill=INK,
        )


def number(value: Number) -> str:
    """Write a coordinate, two decimals at most.

    Raises:
        ValueError: The coordinate is NaN or infinite.
    """
    if not math.isfinite(value):
        raise ValueError(f"an SVG coordinate must be finite, got {value}")
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def element(name: str, content: str = "", /, **attributes: str | Number) -> str:
    """Write an element; underscores in attribute names become hyphens, values are escaped.

    Args:
        name: The tag.
        content: What stands inside: SVG, or text that is already escaped.
        **attributes: Empty ones are left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value != ""
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def text(x: Number, y: Number, words: str, **attributes: str | Number) -> str:
    """Write words at a place; they are escaped here."""
    place: Attributes = {"x": x, "y": y}
    return element("text", escape(words), **(place | attributes))


def line(x1: Number, y1: Number, x2: Number, y2: Number, **attributes: str | Number) -> str:
    """Draw a straight line."""
    ends: Attributes = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", **(ends | attributes))


def points(places: Sequence[tuple[float, float]]) -> str:
    """Write the corners of a polyline or polygon."""
    return " ".join(f"{number(x)},{number(y)}" for x, y in places)


def text_width(words: str, size: Number = 12) -> float:
    """Estimate the width of words in pixels: without a browser nobody knows it."""
    return 0.62 * size * len(words)


def shorten(words: str, limit: int = 28) -> str:
    """Cut words that are longer than `limit` characters."""
    return words if len(words) <= limit else words[: limit - 1] + "…"


def grid(drawings: Sequence[Drawing], columns: int, *, gap: Number = 20) -> Drawing:
    """Lay drawings out in rows, left to right; each column is as wide as the widest drawing."""
    width = max(drawing.width for drawing in drawings)
    rows = [drawings[i : i + columns] for i in range(0, len(drawings), columns)]
    placed: list[str] = []
    top = 0.0
    for row in rows:
        for column, drawing in enumerate(row):
            shift = f"translate({number(column * (width + gap))} {number(top)})"
            placed.append(element("g", drawing.body, transform=shift))
        top += max(drawing.height for drawing in row) + gap
    used = min(columns, len(drawings))
    return Drawing(used * (width + gap) - gap, top - gap, "".join(placed))


def beside(left: Drawing, right: Drawing, *, gap: Number = 20) -> Drawing:
    """Put one drawing to the right of another."""
    shift = f"translate({number(left.width + gap)} 0)"
    body = left.body + element("g", right.body, transform=shift)
    return Drawing(left.width + gap + right.width, max(left.height, right.height), body)


def arm_colour(index: int) -> str:
    """Return the colour of the arm at a place in the comparison."""
    return PALETTE[index % len(PALETTE)]


def arm_dash(index: int) -> str:
    """Return the dash pattern of the arm at a place; it changes where the colours repeat."""
    return DASHES[index // len(PALETTE) % len(DASHES)]


def ramp_colour(share: float) -> str:
    """Return the colour at a share in [0, 1] of the way from light to dark."""
    place = min(max(share, 0.0), 1.0) * (len(RAMP) - 1)
    index = min(int(place), len(RAMP) - 2)
    low, high = _channels(RAMP[index]), _channels(RAMP[index + 1])
    mixed = (a + (b - a) * (place - index) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def ink_on(colour: str) -> str:
    """Return the colour of words that can be read on a background: white on a dark one.

    Source: relative luminance of WCAG 2.2, in its common gamma 2.2 approximation. The bound lies
    above that standard's, which prefers black on mid blues where the eye prefers white.
    """
    red, green, blue = ((channel / 255) ** 2.2 for channel in _channels(colour))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if luminance < 0.33 else INK


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _value(value: str | Number) -> str:
    return escape(value) if isinstance(value, str) else number(value)
