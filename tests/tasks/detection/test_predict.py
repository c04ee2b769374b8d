"""What is predicted for somebody's images, and what is written where."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from rlkd.data.detection.coco import read_coco
from rlkd.errors import UserError
from rlkd.reporting.predictions import DrawnBox, write_predictions
from rlkd.tasks.detection.predict import predict_images, prediction_rows
from rlkd.text_files import read_object

BOX = [20.0, 40.0, 60.0, 80.0]
GREY = (128, 128, 128)


class Fixed(nn.Module):
    """A detector that finds the same in every image, and remembers how it was asked."""

    def __init__(self, found: Sequence[tuple[list[float], int, float]]) -> None:
        super().__init__()
        self.found = found
        self.shapes: list[list[tuple[int, ...]]] = []

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        self.shapes.append([tuple(image.shape) for image in images])
        found = {
            "boxes": torch.tensor([box for box, _, _ in self.found]).reshape(-1, 4),
            "labels": torch.tensor([label for _, label, _ in self.found], dtype=torch.int64),
            "scores": torch.tensor([score for _, _, score in self.found]),
        }
        return [found for _ in images]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    Image.new("RGB", (100, 120), GREY).save(folder / "b.png")
    Image.new("RGB", (120, 100), GREY).save(folder / "a.JPG", "JPEG")
    Image.new("L", (90, 90), 128).save(folder / "inner" / "c.bmp")
    Image.new("RGB", (90, 90), GREY).save(folder / ".hidden" / "d.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def predict(detector: nn.Module, source: Path, output: Path, **options: Any) -> Any:
    return predict_images(
        detector,
        source,
        category_ids=(3, 7),
        output=output,
        device="cpu",
        **{"class_names": ("ball", "car"), "console": Console(file=io.StringIO()), **options},
    )


def changed(before: Path, after: Path) -> np.ndarray:
    """Return which pixels of two image files differ clearly: height x width."""
    one, other = (
        np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (before, after)
    )
    return (np.abs(one - other) > 40).any(axis=2)


def test_the_file_tells_what_was_found_in_every_image(folder: Path, tmp_path: Path) -> None:
    detector = Fixed([(BOX, 2, 0.75), ([0, 0, 9, 9], 1, 0.5), (BOX, 1, 0.49), (BOX, 3, 0.9)])
    output, said = tmp_path / "out", io.StringIO()
    made = predict(detector.train(), folder, output, console=Console(file=said))
    objects = [
        {"box": BOX, "class": "car", "category_id": 7, "score": 0.75},
        {"box": [0, 0, 9, 9], "class": "ball", "category_id": 3, "score": 0.5},
    ]
    assert made == read_object(output / "predictions.json", "")["predictions"]
    assert made == [
        {"file": "a.JPG", "width": 120, "height": 100, "detections": objects},
        {"file": "b.png", "width": 100, "height": 120, "detections": objects},
        {"file": "inner/c.bmp", "width": 90, "height": 90, "detections": objects},
    ]
    assert detector.training
    assert detector.shapes == [[(3, 100, 120)], [(3, 120, 100)], [(3, 90, 90)]]
    assert "6 objects of score 0.5 or more in 3 images" in said.getvalue()


def test_pictures_keep_names_and_folders_and_differ_where_boxes_are(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    predict(Fixed([(BOX, 1, 0.75)]), folder, output, batch_size=2)
    pictures = {"a.JPG": "a.JPG", "b.png": "b.png", "inner/c.bmp": "inner/c.bmp.png"}
    written = [path for path in (output / "pictures").rglob("*") if path.is_file()]
    assert {path.relative_to(output / "pictures").as_posix() for path in written} == set(
        pictures.values()
    )
    for image, picture in pictures.items():
        different = changed(folder / image, output / "pictures" / picture)
        assert different[45:78, 20].all()  # the left edge
        assert different[45:78, 59].all()  # the right edge
        assert different[79, 20:60].all()  # the bottom
        assert different[25:39, 21:50].any()  # the label, above the box
        assert not different[45:75, 25:55].any()  # within
        assert not different[:, 70:].any()  # outside, where the label does not reach
        assert not different[85:].any()


def test_white_space_in_a_class_is_drawn_as_one_space(folder: Path, tmp_path: Path) -> None:
    for place, name in enumerate(("sea star", " sea\n\tstar\n")):
        names, output = {"class_names": ("ball", name)}, tmp_path / str(place)
        (made,) = predict(Fixed([(BOX, 2, 0.75)]), folder / "b.png", output, **names)
        assert made["detections"][0]["class"] == name
    pictures = [tmp_path / str(place) / "pictures" / "b.png" for place in range(2)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_a_picture_without_objects_is_its_image(folder: Path, tmp_path: Path) -> None:
    predict(Fixed([]), folder / "b.png", tmp_path / "out")
    assert not changed(folder / "b.png", tmp_path / "out" / "pictures" / "b.png").any()


def test_an_earlier_prediction_is_replaced_and_its_pictures_are_no_images(folder: Path) -> None:
    output = folder / "out"
    predict(Fixed([(BOX, 1, 0.75)]), folder, output)
    made = predict(Fixed([]), folder, output)
    assert [each["file"] for each in made] == ["a.JPG", "b.png", "inner/c.bmp"]
    assert read_object(output / "predictions.json", "")["predictions"] == made
    assert not changed(folder / "b.png", output / "pictures" / "b.png").any()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("letter.txt", "mine"),
        ("predictions.json", "[]"),
        ("predictions.json", '{"format": 1, "predictions": [{"mine": 1}]}'),
        ("predictions.json", '{"format": 2, "predictions": []}'),
    ],
)
def test_a_folder_of_something_else_is_left_alone(
    folder: Path, tmp_path: Path, name: str, text: str
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_text(text)
    with pytest.raises(UserError, match="no predictions: name a new or empty output folder"):
        predict(Fixed([]), folder, output)
    assert [path.name for path in output.iterdir()] == [name]
    assert (output / name).read_text() == text


def test_images_are_never_written_over(folder: Path) -> None:
    pictures = folder.rename(folder.with_name("pictures"))
    with pytest.raises(UserError, match="where pictures would be written"):
        predict(Fixed([(BOX, 1, 0.75)]), pictures, pictures.parent)
    assert not (pictures.parent / "predictions.json").exists()


def spoil(folder: Path) -> Path:
    file = folder / "b.png"
    file.write_bytes(file.read_bytes()[:60])
    return file


def test_an_unreadable_file_is_named(folder: Path, tmp_path: Path) -> None:
    file = spoil(folder)
    with pytest.raises(UserError, match="cannot be decoded") as caught:
        predict(Fixed([]), folder, tmp_path / "out")
    assert str(caught.value).startswith(str(file))
    assert "skip_unreadable=true" in str(caught.value)
    assert "\n" not in str(caught.value)
    predict(Fixed([]), folder, tmp_path / "out", skip_unreadable=True)  # into the same folder


def test_unreadable_files_are_counted_where_they_may_be_left_out(
    folder: Path, tmp_path: Path
) -> None:
    spoil(folder)
    said = io.StringIO()
    made = predict(
        Fixed([]), folder, tmp_path / "out", skip_unreadable=True, console=Console(file=said)
    )
    assert [each["file"] for each in made] == ["a.JPG", "inner/c.bmp"]
    assert "1 file that cannot be decoded left out (" in said.getvalue()
    with pytest.raises(UserError, match="none of the 1 images"):
        predict(Fixed([]), folder / "b.png", tmp_path / "out", skip_unreadable=True)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((50, 50), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    predict(Fixed([]), tmp_path / "deep.png", tmp_path / "out")
    with Image.open(tmp_path / "out/pictures/deep.png") as picture:
        assert picture.getextrema() == ((156, 156),) * 3  # 40000 / 257 = 155.6


def test_an_image_is_turned_upright_before_anything_is_looked_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 60), "blue").save(tmp_path / "turned.jpg", exif=exif)
    (made,) = predict(Fixed([]), tmp_path / "turned.jpg", tmp_path / "out")
    assert (made["width"], made["height"]) == (60, 40)
    with Image.open(tmp_path / "out/pictures/turned.jpg") as picture:
        assert picture.size == (60, 40)
        assert 0x0112 not in picture.getexif()


def test_files_without_an_images_ending_are_counted(folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("")
    (folder / "README").write_text("")
    said = io.StringIO()
    predict(Fixed([]), folder, tmp_path / "out", console=Console(file=said))
    assert "2 files without an image's ending left out" in said.getvalue()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_options_out_of_range_are_refused(
    folder: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        predict(Fixed([]), folder, tmp_path / "out", **options)


def test_a_source_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        predict(Fixed([]), tmp_path / "missing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images"):
        predict(Fixed([]), tmp_path / "empty", tmp_path / "out")
    (tmp_path / "out").write_text("a file")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="is a file"):
        predict(Fixed([]), tmp_path / "a.png", tmp_path / "out")


def test_rows_hold_teacher_student_and_truth_of_the_images_asked_for(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (100, 120), GREY).save(tmp_path / name)
    annotations = tmp_path / "annotations.json"
    annotations.write_text(
        json.dumps(
            {
                "images": [
                    {"id": 5 + row, "file_name": name, "width": 100, "height": 120}
                    for row, name in enumerate(("a.png", "b.png"))
                ],
                "annotations": [{"id": 1, "image_id": 6, "category_id": 7, "bbox": [1, 2, 30, 40]}],
                "categories": [{"id": 3, "name": "ball"}, {"id": 7, "name": "car"}],
            }
        )
    )
    images = read_coco(tmp_path, annotations)
    teacher = Fixed([(BOX, 2, 0.75), (BOX, 1, 0.25), (BOX, 9, 0.9)])
    student = Fixed([(BOX, 1, 0.5)])
    (row,) = prediction_rows(teacher, student, images, [1], device="cpu")
    corners = (20.0, 40.0, 60.0, 80.0)
    assert (row.name, row.width, row.height) == ("b.png", 100, 120)
    assert row.teacher == [DrawnBox(corners, "car", 0.75)]
    assert row.student == [DrawnBox(corners, "ball", 0.5)]
    assert row.truth == [DrawnBox((1.0, 2.0, 31.0, 42.0), "car")]
    shown = Image.open(io.BytesIO(row.image))
    assert (shown.format, shown.size) == ("JPEG", (100, 120))
    alone = prediction_rows(None, student, images, [0, 1], device="cpu", threshold=0.6)
    assert [(each.teacher, each.student) for each in alone] == [(None, []), (None, [])]
    assert alone[0].truth == []
    write_predictions(tmp_path / "page.html", [row, *alone], "predictions")
    assert "car 0.75" in (tmp_path / "page.html").read_text()
