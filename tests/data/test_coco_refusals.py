"""What is no COCO file is told in one line: the file, the image or annotation, and the remedy."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.coco_files import content, read, write

from rlkd.data.detection.coco import read_coco
from rlkd.errors import UserError

Spoil = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no JSON"),
        ("{'images': []}", "is no JSON"),
        ('{"images": [', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is a JSON list, not an object"),
        ('{"images": [], "annotations": []}', "lists no images"),
        ('{"annotations": [], "categories": []}', "has no images"),
        ('{"images": {}, "annotations": []}', "images is no list of objects"),
        ('{"images": [1], "annotations": []}', "images is no list of objects"),
    ],
)
def test_a_file_that_is_not_coco_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "some.json"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"some\.json:? {told}") as error:
        read_coco(tmp_path, file)
    assert "\n" not in str(error.value)
    assert ": give a file of COCO's" in str(error.value) or "give another file" in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(UserError, match=r"some\.json is no JSON"):
        read_coco(tmp_path, tmp_path / "some.json")


def test_a_missing_file_and_a_folder_for_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no annotation file .*/none\.json: fix the path"):
        read_coco(tmp_path, tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_coco(tmp_path, tmp_path)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_an_absent_list_is_named(tmp_path: Path, key: str) -> None:
    given = content()
    del given[key]
    with pytest.raises(UserError, match=rf"annotations\.json has no {key}: give a file of COCO's"):
        read(tmp_path, given)


def image(**values: Any) -> Spoil:
    return lambda given: given["images"][1].update(values)


def annotation(**values: Any) -> Spoil:
    return lambda given: given["annotations"][0].update(values)


def category(**values: Any) -> Spoil:
    return lambda given: given["categories"][1].update(values)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda given: given["images"][1].pop("width"), "image 10 has no width: give its pixels"),
        (image(height=0), "image 10 has height 0: give its pixels, 1 or more"),
        (image(height=True), "image 10 has height true"),
        (image(height="40"), 'image 10 has height "40"'),
        (image(file_name=None), "image 10 has file_name null: give its path from the image"),
        (image(file_name="\ud800.png"), "image 10 has file_name .*: give its path from the image"),
        (image(file_name="a\0.png"), "1 of the 3 images of .*are not in"),
        (image(file_name="a" * 999 + "/b.png"), r"first of them a{200} \(image 10\), are not in"),
        (category(name="\ud800"), "category 2 has name .*: give a text"),
        (annotation(bbox=[1, 2, 3, 10**300]), "annotation 5 has bbox"),
        (annotation(area=float("nan")), "annotation 5 has area NaN: give square pixels"),
        (annotation(iscrowd=float("nan")), "annotation 5 has iscrowd NaN: give 0 or 1"),
        (image(id="10"), 'number 2 of the images has id "10": give a whole number'),
        (image(id=2**64), "number 2 of the images has id 18446744073709551616"),
        (image(id=30), "2 images have the id 30: give each its own"),
        (category(id=9), "2 categories have the id 9: give each its own"),
        (category(name=3), "category 2 has name 3: give a text"),
        (lambda given: given["categories"].clear(), "lists no categories: add some"),
        (lambda given: given["annotations"][3].pop("id"), "number 4 of the annotations has no id"),
        (lambda given: given["annotations"][3].pop("bbox"), "annotation 4 has no bbox: give left"),
        (annotation(image_id=11), "annotation 5 has image_id 11: give the id of a listed image"),
        (annotation(image_id=[10]), r"annotation 5 has image_id \[10\]: give the id of a listed"),
        (annotation(category_id=1), "annotation 5 has category_id 1: give that of a listed categ"),
        (annotation(category_id={}), "annotation 5 has category_id {}"),
        (annotation(bbox=[1, 2, 3]), r"annotation 5 has bbox \[1, 2, 3\]: give left, top, width"),
        (annotation(bbox=[1, 2, 3, "4"]), "annotation 5 has bbox"),
        (annotation(bbox=[1, 2, 3, float("nan")]), "annotation 5 has bbox .*NaN"),
        (annotation(bbox=[1, 2, float("inf"), 4]), "annotation 5 has bbox .*Infinity"),
        (annotation(area="big"), 'annotation 5 has area "big": give square pixels'),
        (annotation(iscrowd="0"), 'annotation 5 has iscrowd "0": give 0 or 1'),
        (annotation(bbox=[5, 5, -2, 4]), r"5 of image 10 \(20 x 40 pixels\) has bbox .* negative"),
        (annotation(bbox=[5, 5, 2, -4]), "annotation 5 of image 10 .*whose width or height is neg"),
        (annotation(bbox=[20, 5, 2, 4]), "annotation 5 of image 10 .*wholly outside the image"),
        (annotation(bbox=[5, 40, 2, 4]), "annotation 5 of image 10 .*wholly outside the image"),
        (annotation(bbox=[-2, 5, 2, 4]), "annotation 5 of image 10 .*wholly outside the image"),
        (annotation(bbox=[5, -4, 2, 4]), "annotation 5 of image 10 .*wholly outside the image"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file(
    tmp_path: Path, spoil: Spoil, told: str
) -> None:
    given = content()
    spoil(given)
    with pytest.raises(UserError, match=told) as error:
        read(tmp_path, given)
    assert str(tmp_path / "annotations.json") in str(error.value)
    assert ": " in str(error.value)
    assert "\n" not in str(error.value)


def test_the_unspoilt_file_is_read(tmp_path: Path) -> None:
    assert len(read_coco(tmp_path / "images", write(tmp_path))) == 3


@pytest.mark.parametrize("name", ["/dev/zero", "../fifo", "inner"])
def test_an_image_that_is_no_regular_file_cannot_be_decoded(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    given = content()
    given["images"][1]["file_name"] = name
    images = read(tmp_path, given)
    with pytest.raises(UserError, match=r"cannot be decoded \(it is a .*, not a regular file\)"):
        images.image(1)
