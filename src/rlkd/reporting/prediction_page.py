"""A page of predictions: each image with the boxes of teacher, student and truth side by side."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rlkd.errors import UserError
from rlkd.reporting.files import write_text
from rlkd.reporting.page import facts, figure, page
from rlkd.reporting.pictures import WIDTH, Picture
from rlkd.reporting.provenance import counted
from rlkd.reporting.svg import (
    PALETTE,
    SOFT_INK,
    Drawing,
    arm_colour,
    arm_dash,
    element,
    grid,
    ink_on,
    shorten,
    text,
    text_width,
)
from rlkd.reporting.words import sentence

GAP = 16.0
PANEL = (WIDTH - 2 * GAP) / 3
TALLEST = 420.0
LEAST = 140.0
HEADING = 22.0
LABEL, LABEL_HEIGHT = 10, 13.0
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """An object, found or true."""

    box: Corners
    """Corners x1, y1, x2, y2 in pixels of the image; what lies outside it is cut off."""
    name: str
    """The class."""
    score: float | None = None
    """The detector's confidence in [0, 1]; None for a true object."""

    @property
    def label(self) -> str:
        """The class, and the score where there is one."""
        return self.name if self.score is None else f"{self.name} {self.score:.2f}"


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """An image and what was found in it; a set that is None has no panel.

    Raises:
        ValueError: The image has no size, or its file is neither JPEG nor PNG.
    """

    image: bytes
    """The image file, JPEG or PNG."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    teacher: Sequence[DrawnBox] | None
    student: Sequence[DrawnBox] | None
    truth: Sequence[DrawnBox] | None
    name: str = ""
    """What the image is called; empty for its number on the page."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"{self.name}: {self.width} x {self.height} pixels is no image")
        if not any(self.image.startswith(signature) for signature in SIGNATURES):
            raise ValueError(f"{self.name}: the image is neither JPEG nor PNG")

    @property
    def data_uri(self) -> str:
        """The image file as an address that holds it."""
        kinds = (kind for head, kind in SIGNATURES.items() if self.image.startswith(head))
        return f"data:{next(kinds)};base64,{base64.b64encode(self.image).decode('ascii')}"

    @property
    def panels(self) -> dict[str, Sequence[DrawnBox]]:
        """The sets that there are, from left to right."""
        sets = {"teacher": self.teacher, "student": self.student, "truth": self.truth}
        return {name: boxes for name, boxes in sets.items() if boxes is not None}


def write_predictions(
    path: str | Path, rows: Sequence[PredictionRow], title: str, *, threshold: float = 0.5
) -> None:
    """Write images with teacher, student and truth side by side, as one file that opens offline.

    Args:
        path: The file to write.
        rows: The images; their files are embedded as they are.
        title: What is shown, in words.
        threshold: The least score of a box that is drawn, in [0, 1]. True boxes have no score and
            are always drawn.

    Raises:
        UserError: There is no image, or the file cannot be written.
    """
    if not rows:
        raise UserError("there are no images to show; name at least one")
    kept = [_kept(row, threshold) for row in rows]
    looks = _looks(kept)
    shown = [_picture(i, row, looks, threshold) for i, row in enumerate(kept, start=1)]
    note = f"boxes with a score of {threshold:.2f} or more; true boxes have none"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(counted(len(rows), "image"))}</p>',
        facts([("Shown", note), ("Classes", _legend(looks) if looks else "no box is drawn")]),
        *(figure(i, picture) for i, picture in enumerate(shown, start=1)),
    ]
    write_text(path, page(title, "\n".join(parts)))


def _kept(row: PredictionRow, threshold: float) -> PredictionRow:
    """Leave out boxes below the threshold, and those whose figures are not finite."""

    def drawn(boxes: Sequence[DrawnBox] | None) -> list[DrawnBox] | None:
        if boxes is None:
            return None
        return [
            each
            for each in boxes
            if all(map(math.isfinite, each.box)) and (each.score is None or each.score >= threshold)
        ]

    sets = drawn(row.teacher), drawn(row.student), drawn(row.truth)
    return PredictionRow(row.image, row.width, row.height, *sets, row.name)


def _looks(rows: Sequence[PredictionRow]) -> dict[str, tuple[str, str]]:
    """Return the colour and the dash pattern of every class that is drawn, in order of names."""
    every = [each.name for row in rows for boxes in row.panels.values() for each in boxes]
    names = sorted(set(every))
    return {name: (arm_colour(i), arm_dash(i)) for i, name in enumerate(names)}


def _picture(
    position: int, row: PredictionRow, looks: Mapping[str, tuple[str, str]], threshold: float
) -> Picture:
    title = row.name or f"Image {position}"
    told = {name: _boxes(len(boxes)) for name, boxes in row.panels.items()}
    caption = ", ".join(f"{name} {words}" for name, words in told.items())
    caption = sentence(caption) + f"; scores from {threshold:.2f}."
    described = "; ".join(
        f"{name}: {', '.join(each.label for each in boxes) or 'no box'}"
        for name, boxes in row.panels.items()
    )
    scale = min(PANEL / row.width, TALLEST / row.height)
    width, height = scale * row.width, scale * row.height
    key = f"image-{position}"
    held = element(
        "image",
        href=row.data_uri,
        id=key,
        width=width,
        height=height,
        preserveAspectRatio="none",
    )
    drawings = [
        _panel(name, boxes, looks, scale, (width, height), key)
        for name, boxes in row.panels.items()
    ]
    laid = grid(drawings, 3, gap=GAP)
    body = element("desc", escape(described)) + element("defs", held) + laid.body
    return Picture(title, Drawing(laid.width, laid.height, body).svg(title), caption)


def _panel(
    name: str,
    boxes: Sequence[DrawnBox],
    looks: Mapping[str, tuple[str, str]],
    scale: float,
    size: tuple[float, float],
    key: str,
) -> Drawing:
    """Draw the boxes of one set over the image, their labels over all of them, the surest last."""
    ordered = sorted(boxes, key=lambda each: -math.inf if each.score is None else each.score)
    placed = [(each, _cut(each.box, scale, size)) for each in ordered]
    edges = [_edge(each, place, *looks[each.name]) for each, place in placed]
    tags = [_tag(each, place, looks[each.name][0], size[0]) for each, place in placed]
    heading = text(0, 14, name, font_weight=600) + text(
        max(size[0], LEAST), 14, _boxes(len(boxes)), text_anchor="end", fill=SOFT_INK, font_size=11
    )
    over = element("use", href=f"#{key}") + element("g", "".join(edges), class_="boxes")
    over += element("g", "".join(tags), class_="labels")
    body = heading + element("g", over, transform=f"translate(0 {HEADING:.0f})")
    return Drawing(PANEL, HEADING + size[1], body)


def _cut(box: Corners, scale: float, size: tuple[float, float]) -> Corners:
    """Scale a box to the panel and cut off what lies outside the image."""
    left, right = (min(max(scale * x, 0.0), size[0]) for x in box[::2])
    top, bottom = (min(max(scale * y, 0.0), size[1]) for y in box[1::2])
    return left, top, right, bottom


def _edge(drawn: DrawnBox, place: Corners, colour: str, dash: str) -> str:
    """Draw a box with a pale rim, so that it can be seen on any image."""
    left, top, right, bottom = place
    at = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    rim = element("rect", **at, fill="none", stroke="#ffffff", stroke_width=3.5, opacity=0.75)
    line = element(
        "rect", **at, fill="none", stroke=colour, stroke_width=1.8, stroke_dasharray=dash
    )
    corners = ", ".join(f"{each:.0f}" for each in drawn.box)
    return element("g", element("title", escape(f"{drawn.label}, corners {corners}")) + rim + line)


def _tag(drawn: DrawnBox, place: Corners, colour: str, width: float) -> str:
    """Write a box's label above it, or within where there is no room above."""
    words = shorten(drawn.label, 26)
    wide = text_width(words, LABEL) + 4
    left = max(0.0, min(place[0], width - wide))
    top = place[1] - LABEL_HEIGHT if place[1] >= LABEL_HEIGHT else place[1]
    ground = element("rect", x=left, y=top, width=wide, height=LABEL_HEIGHT, fill=colour)
    return ground + text(left + 2, top + 10, words, fill=ink_on(colour), font_size=LABEL)


def _legend(looks: Mapping[str, tuple[str, str]]) -> str:
    """Draw a swatch and a name for each class, in rows."""
    parts: list[str] = []
    x, y, widest = 0.0, 0.0, 0.0
    room = WIDTH - 130
    for name, (colour, dash) in looks.items():
        words = shorten(name)
        step = 24 + text_width(words) + 14
        if x and x + step > room:
            x, y = 0.0, y + 20
        look = {"fill": "none", "stroke": colour, "stroke_width": 2, "stroke_dasharray": dash}
        parts.append(element("rect", x=x + 1, y=y + 4, width=16, height=11, **look))
        parts.append(text(x + 24, y + 14, words))
        x += step
        widest = max(widest, x)
    described = f"Colours of the classes: {', '.join(looks)}"
    if len(looks) > len(PALETTE):
        described += "; colours repeat with other dashes"
    return Drawing(widest, y + 20, "".join(parts)).svg(described)


def _boxes(number: int) -> str:
    return f"{number:,} {'box' if number == 1 else 'boxes'}"
