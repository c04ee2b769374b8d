"""A page of predictions: each image with the boxes of teacher, student and truth side by side."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlkd.errors import UserError
from rlkd.reporting.pages import page
from rlkd.reporting.results.provenance import counted
from rlkd.text_files import write_text

SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """An object, found or true."""

    box: tuple[float, float, float, float]
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

    def panels(self, threshold: float) -> dict[str, list[DrawnBox]]:
        """Return the sets that there are, from left to right, each with the surest box last.

        Boxes below the threshold are left out, and those whose corners are not finite.
        """
        sets = {"teacher": self.teacher, "student": self.student, "truth": self.truth}
        return {
            name: sorted(
                (
                    each
                    for each in boxes
                    if all(map(math.isfinite, each.box))
                    and (each.score is None or each.score >= threshold)
                ),
                key=lambda each: each.score or 0.0,
            )
            for name, boxes in sets.items()
            if boxes is not None
        }

    def insets(self, drawn: DrawnBox) -> tuple[float, float, float, float]:
        """Return how far a box lies from the left, top, right and bottom edge, in per cent."""
        x1, y1, x2, y2 = drawn.box
        left, right = (100 * min(max(x / self.width, 0.0), 1.0) for x in (x1, x2))
        top, bottom = (100 * min(max(y / self.height, 0.0), 1.0) for y in (y1, y2))
        return left, top, 100 - right, 100 - bottom


def write_predictions(
    path: str | Path, rows: Sequence[PredictionRow], title: str, *, threshold: float = 0.5
) -> None:
    """Write images with teacher, student and truth side by side, as one file that opens offline.

    Args:
        path: The file to write.
        rows: The images; their files are embedded as they are.
        title: Of the page.
        threshold: The least score of a box that is drawn, in [0, 1]. True boxes have no score and
            are always drawn.

    Raises:
        UserError: There is no image, or the file cannot be written.
    """
    from rlkd.reporting.plotting import INK, PALE, PALETTE

    if not rows:
        raise UserError("there are no images to show; name at least one")
    shown = [(row, row.panels(threshold)) for row in rows]
    names = {each.name for _, panels in shown for boxes in panels.values() for each in boxes}
    looks: dict[str, str] = {}
    for i, name in enumerate(sorted(names)):
        turn, place = divmod(i, len(PALETTE))
        on = INK if place in PALE else "white"
        edge = ("solid", "dashed", "dotted")[turn % 3]
        looks[name] = f"--colour: {PALETTE[place]}; --on: {on}; border-style: {edge}"
    html = page(
        "predictions.html",
        title=title,
        lead=counted(len(rows), "image"),
        rows=shown,
        looks=looks,
        threshold=f"{threshold:.2f}",
    )
    write_text(path, html)
