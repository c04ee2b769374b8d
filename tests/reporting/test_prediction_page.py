import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from rlkd.errors import UserError
from rlkd.reporting.prediction_page import GAP, PANEL, DrawnBox, PredictionRow, write_predictions

SVG = "{http://www.w3.org/2000/svg}"


def picture(format_: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (200, 100), "green").save(file, format=format_)
    return file.getvalue()


@pytest.fixture
def row() -> PredictionRow:
    """Twice as wide as high; the teacher's last box is below one half, the student's is broken."""
    return PredictionRow(
        image=picture(),
        width=200,
        height=100,
        teacher=[
            DrawnBox((50.0, 50.0, 150.0, 75.0), "dog", 0.912),
            DrawnBox((-20.0, 0.0, 100.0, 900.0), "a<b", 0.6),
            DrawnBox((1.0, 1.0, 2.0, 2.0), "cat", 0.49),
        ],
        student=[DrawnBox((0.0, 0.0, float("nan"), 1.0), "dog", 0.9)],
        truth=[DrawnBox((50.0, 50.0, 150.0, 75.0), "dog")],
        name="yard & gate.jpg",
    )


def written(path: Path, *rows: PredictionRow, threshold: float = 0.5) -> str:
    write_predictions(path / "predictions.html", rows, "Dogs <b>", threshold=threshold)
    return (path / "predictions.html").read_text(encoding="utf-8")


def drawings(page: str) -> list[ElementTree.Element]:
    """The legend, and then one drawing an image."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def panels(drawing: ElementTree.Element) -> list[ElementTree.Element]:
    return drawing.findall(f"{SVG}g")


def layer(panel: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return list(next(each for each in panel.iter(f"{SVG}g") if each.get("class") == name))


def boxes(panel: ElementTree.Element) -> list[tuple[str, list[float]]]:
    """What each box says where the mouse points, and its x, y, width and height."""
    found: list[tuple[str, list[float]]] = []
    for each in layer(panel, "boxes"):
        edge = each.findall(f"{SVG}rect")[1]
        told = each.findtext(f"{SVG}title") or ""
        found.append((told, [float(edge.get(k, "")) for k in ("x", "y", "width", "height")]))
    return found


def test_boxes_lie_at_their_corners(tmp_path: Path, row: PredictionRow) -> None:
    teacher, student, truth = panels(drawings(written(tmp_path, row))[1])
    scale = PANEL / 200
    # The box that hangs out is cut to the left half of the image: x 0 to 100, y 0 to 100.
    assert boxes(teacher) == [
        (
            "a<b 0.60, corners -20, 0, 100, 900",
            pytest.approx([0, 0, PANEL / 2, PANEL / 2], abs=0.01),
        ),
        (
            "dog 0.91, corners 50, 50, 150, 75",
            pytest.approx([50 * scale, 50 * scale, 100 * scale, 25 * scale], abs=0.01),
        ),
    ]
    assert boxes(student) == []
    assert boxes(truth) == [("dog, corners 50, 50, 150, 75", boxes(teacher)[1][1])]


def test_three_panels_stand_side_by_side_over_one_image(tmp_path: Path, row: PredictionRow) -> None:
    drawn = drawings(written(tmp_path, row))[1]
    shifts = [float(each.get("transform", "")[10:].split()[0]) for each in panels(drawn)]
    assert shifts == pytest.approx([0, PANEL + GAP, 2 * (PANEL + GAP)], abs=0.01)
    assert [each.findtext(f"{SVG}text") for each in panels(drawn)] == [
        "teacher",
        "student",
        "truth",
    ]
    (image,) = drawn.iter(f"{SVG}image")
    assert float(image.get("width", "")) == pytest.approx(PANEL, abs=0.01)
    assert float(image.get("height", "")) == pytest.approx(PANEL / 2, abs=0.01)
    used = [each.get("href") for each in drawn.iter(f"{SVG}use")]
    assert used == [f"#{image.get('id')}"] * 3


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_the_image_itself_is_in_the_page(tmp_path: Path, row: PredictionRow, format_: str) -> None:
    page = written(tmp_path, replace(row, image=picture(format_)))
    kind, held = re.findall(r'href="data:image/(\w+);base64,([^"]*)"', page)[0]
    assert (kind, base64.b64decode(held)) == (format_.lower(), picture(format_))


def test_the_page_needs_no_network_and_no_scripts(tmp_path: Path, row: PredictionRow) -> None:
    page = written(tmp_path, row, row)
    rest = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for fetched in ("http://", "https://", "<script", "<link", "<img", "@import", "url(", "src="):
        assert fetched not in rest
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) == 2


def test_the_threshold_is_stated_and_kept(tmp_path: Path, row: PredictionRow) -> None:
    page = written(tmp_path, row)
    assert "Teacher 2 boxes, student 0 boxes, truth 1 box; scores from 0.50." in page
    lower = written(tmp_path, row, threshold=0.3)
    assert "Teacher 3 boxes, student 0 boxes, truth 1 box; scores from 0.30." in lower
    assert "cat 0.49" in lower
    assert "cat" not in page


def test_those_who_cannot_see_it_are_told(tmp_path: Path, row: PredictionRow) -> None:
    drawn = drawings(written(tmp_path, row))[1]
    assert [each.tag.removeprefix(SVG) for each in drawn][:2] == ["title", "desc"]
    assert drawn[0].text == "yard & gate.jpg"
    assert drawn[1].text == "teacher: dog 0.91, a<b 0.60; student: no box; truth: dog"
    assert drawn.get("role") == "img"


def test_a_class_has_one_colour_and_the_legend_names_it(tmp_path: Path, row: PredictionRow) -> None:
    legend, drawn = drawings(written(tmp_path, row))
    swatches = [each.get("stroke") for each in legend.iter(f"{SVG}rect")]
    names = [each.text for each in legend.iter(f"{SVG}text")]
    colours = dict(zip(names, swatches, strict=True))
    assert list(colours) == ["a<b", "dog"]
    assert len(set(colours.values())) == 2
    for panel in panels(drawn):
        for group in layer(panel, "boxes"):
            name = (group.findtext(f"{SVG}title") or "").split(",")[0].split(" 0")[0]
            assert group.findall(f"{SVG}rect")[1].get("stroke") == colours[name]


def test_a_label_stays_within_its_panel(tmp_path: Path, row: PredictionRow) -> None:
    corner = DrawnBox((190.0, 0.0, 200.0, 10.0), "refrigerator", 0.99)
    drawn = drawings(written(tmp_path, replace(row, teacher=[corner])))[1]
    tag, words = layer(panels(drawn)[0], "labels")
    assert words.text == "refrigerator 0.99"
    x, y, width = (float(tag.get(key, "")) for key in ("x", "y", "width"))
    assert y >= 0
    assert x + width <= PANEL + 0.01


def test_a_tall_image_is_made_smaller_in_both_directions(
    tmp_path: Path, row: PredictionRow
) -> None:
    tall = replace(row, width=100, height=1000)
    (image,) = drawings(written(tmp_path, tall))[1].iter(f"{SVG}image")
    width, height = (float(image.get(key, "")) for key in ("width", "height"))
    assert width == pytest.approx(height / 10)
    assert height < 500


def test_a_set_that_is_not_known_has_no_panel(tmp_path: Path, row: PredictionRow) -> None:
    page = written(tmp_path, replace(row, truth=None, name=""))
    drawn = drawings(page)[1]
    assert [each.findtext(f"{SVG}text") for each in panels(drawn)] == ["teacher", "student"]
    assert drawn[0].text == "Image 1"


def test_what_cannot_be_shown_is_refused(tmp_path: Path, row: PredictionRow) -> None:
    with pytest.raises(UserError, match="no images to show"):
        write_predictions(tmp_path / "predictions.html", [], "t")
    with pytest.raises(ValueError, match=r"yard & gate\.jpg: the image is neither JPEG nor PNG"):
        replace(row, image=b"GIF89a")
    with pytest.raises(ValueError, match="0 x 100 pixels is no image"):
        replace(row, width=0)
