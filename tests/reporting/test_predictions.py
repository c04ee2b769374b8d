import base64
import io
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from tests.reporting.conftest import fetches

from rlkd.errors import UserError
from rlkd.reporting.predictions import DrawnBox, PredictionRow, write_predictions

SIDES = ("left", "top", "right", "bottom")


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


@dataclass
class Element:
    """A tag with its attributes and the text directly in it."""

    tag: str
    attributes: dict[str, str]
    inside: list["Element"] = field(default_factory=list["Element"])
    text: str = ""

    def all(self, tag: str, class_: str = "") -> list["Element"]:
        """The elements within, at any depth, of a tag and a class."""
        found = [each for child in self.inside for each in child.all(tag, class_)]
        classes = self.attributes.get("class", "").split()
        return [self, *found] if self.tag == tag and (not class_ or class_ in classes) else found

    def style(self, key: str) -> str:
        pairs = (each.partition(":") for each in self.attributes["style"].split(";"))
        return {name.strip(): value.strip() for name, _, value in pairs}[key]


class Tree(HTMLParser):
    """The elements of a page, of which every one but meta closes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open = [Element("", {})]
        self.feed(page)
        assert len(self.open) == 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(element)
        if tag != "meta":
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].text += data


def figures(page: str) -> list[Element]:
    return Tree(page).open[0].all("figure")


def panels(figure: Element) -> list[Element]:
    return figure.all("div", "panel")


def boxes(panel: Element) -> list[tuple[str, list[float]]]:
    """The words of each box where the mouse points, and its four insets in per cent."""
    return [
        (
            box.attributes["title"],
            [
                float(box.style(side).removesuffix("%"))
                for side in ("left", "top", "right", "bottom")
            ],
        )
        for box in panel.all("div", "box")
    ]


def test_boxes_lie_at_their_corners(tmp_path: Path, row: PredictionRow) -> None:
    teacher, student, truth = panels(figures(written(tmp_path, row))[0])
    # The box that hangs out is cut to the left half of the image: x 0 to 100, y 0 to 100.
    assert boxes(teacher) == [
        ("a<b 0.60, corners -20, 0, 100, 900", [0, 0, 50, 0]),
        ("dog 0.91, corners 50, 50, 150, 75", [25, 50, 25, 25]),
    ]
    assert boxes(student) == []
    assert boxes(truth) == [("dog, corners 50, 50, 150, 75", [25, 50, 25, 25])]


def test_three_panels_stand_side_by_side_over_one_image(tmp_path: Path, row: PredictionRow) -> None:
    page = written(tmp_path, row)
    (shown,) = figures(page)
    assert "grid-template-columns: repeat(3, 1fr)" in page
    assert [each.all("b")[0].text for each in panels(shown)] == ["teacher", "student", "truth"]
    (image,) = shown.all("image")
    assert (image.attributes["width"], image.attributes["height"]) == ("200", "100")
    for panel in panels(shown):
        (drawn,) = panel.all("div", "drawn")
        assert drawn.style("aspect-ratio") == "200 / 100"
        assert drawn.all("svg")[0].attributes["viewbox"] == "0 0 200 100"
        assert drawn.all("use")[0].attributes["href"] == f"#{image.attributes['id']}"


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_the_image_itself_is_in_the_page(tmp_path: Path, row: PredictionRow, format_: str) -> None:
    page = written(tmp_path, replace(row, image=picture(format_)))
    kind, held = re.findall(r'href="data:image/(\w+);base64,([^"]*)"', page)[0]
    assert (kind, base64.b64decode(held)) == (format_.lower(), picture(format_))


def test_the_page_needs_no_network_and_no_scripts(tmp_path: Path, row: PredictionRow) -> None:
    page = written(tmp_path, row, row)
    assert fetches(page) == []
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) == 2


def test_the_threshold_is_stated_and_kept(tmp_path: Path, row: PredictionRow) -> None:
    page = written(tmp_path, row)
    assert "Teacher 2 boxes, student 0 boxes, truth 1 box; scores from 0.50." in page
    lower = written(tmp_path, row, threshold=0.3)
    assert "Teacher 3 boxes, student 0 boxes, truth 1 box; scores from 0.30." in lower
    assert "cat 0.49" in lower
    assert "cat" not in page


def test_those_who_cannot_see_it_hear_every_box(tmp_path: Path, row: PredictionRow) -> None:
    page = written(tmp_path, row)
    assert "yard &amp; gate.jpg" in page
    drawn = [each.all("div", "drawn")[0].attributes for each in panels(figures(page)[0])]
    assert [each["aria-label"] for each in drawn] == [
        "teacher: a<b 0.60, dog 0.91",
        "student: no box",
        "truth: dog",
    ]
    assert {each["role"] for each in drawn} == {"img"}


def test_a_class_has_one_colour_and_the_legend_names_it(tmp_path: Path, row: PredictionRow) -> None:
    tree = Tree(written(tmp_path, row)).open[0]
    legend = tree.all("span", "class")
    colours = {each.text: each.all("i")[0].style("--colour") for each in legend}
    assert list(colours) == ["a<b", "dog"]
    assert len(set(colours.values())) == 2
    drawn = tree.all("div", "box")
    assert len(drawn) == 3
    for box in drawn:
        name = box.attributes["title"].split(",")[0].split(" 0")[0]
        assert box.style("--colour") == colours[name]


def test_classes_stay_apart_beyond_the_palette(tmp_path: Path, row: PredictionRow) -> None:
    many = [DrawnBox((0.0, 0.0, 9.0, 9.0), f"class {i:02}") for i in range(21)]
    legend = Tree(written(tmp_path, replace(row, truth=many))).open[0].all("span", "class")
    looks = {each.all("i")[0].attributes["style"] for each in legend if "class" in each.text}
    assert len(looks) == 21


def test_a_label_stays_within_its_panel(tmp_path: Path, row: PredictionRow) -> None:
    corner = DrawnBox((190.0, 0.0, 200.0, 10.0), "refrigerator", 0.99)
    middle = DrawnBox((50.0, 50.0, 150.0, 75.0), "dog", 1.0)
    shown = panels(figures(written(tmp_path, replace(row, teacher=[corner, middle])))[0])[0]
    first, second = shown.all("div", "box")
    assert first.all("span")[0].text == "refrigerator 0.99"
    # Its label begins at the right edge of the box, and under the upper one.
    assert first.attributes["class"] == "box right top"
    assert second.attributes["class"] == "box"


def test_a_tall_image_is_made_smaller_in_both_directions(
    tmp_path: Path, row: PredictionRow
) -> None:
    (shown,) = figures(written(tmp_path, replace(row, width=100, height=1000)))
    drawn = shown.all("div", "drawn")[0]
    # 420 pixels high at most
    assert drawn.style("width") == "min(100%, 42.0px)"
    assert drawn.style("aspect-ratio") == "100 / 1000"


def test_a_set_that_is_not_known_has_no_panel(tmp_path: Path, row: PredictionRow) -> None:
    page = written(tmp_path, replace(row, truth=None, name=""))
    assert [each.all("b")[0].text for each in panels(figures(page)[0])] == ["teacher", "student"]
    assert "Image 1</h2>" in page


def test_what_cannot_be_shown_is_refused(tmp_path: Path, row: PredictionRow) -> None:
    with pytest.raises(UserError, match="no images to show"):
        write_predictions(tmp_path / "predictions.html", [], "t")
    with pytest.raises(ValueError, match=r"yard & gate\.jpg: the image is neither JPEG nor PNG"):
        replace(row, image=b"GIF89a")
    with pytest.raises(ValueError, match="0 x 100 pixels is no image"):
        replace(row, width=0)
