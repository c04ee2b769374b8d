import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image, ImageOps
from tests.conftest import RealData
from tests.data.coco_files import content, noise, read, write
from torchvision.transforms.functional import pil_to_tensor

import rlkd.configs
from rlkd.data.detection.coco import DetectionSets, coco, read_coco
from rlkd.data.detection.coco_set import CocoSet
from rlkd.errors import UserError


def by_pycocotools(given: dict[str, Any]) -> Any:
    tools = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    indexed = tools.COCO()
    indexed.dataset = given
    with contextlib.redirect_stdout(io.StringIO()):
        indexed.createIndex()
    return indexed


def test_images_come_in_the_files_order_with_their_ids_and_sizes(tmp_path: Path) -> None:
    images = read(tmp_path)
    assert len(images) == 3
    assert [images.image_id(row) for row in range(3)] == [30, 10, 20]
    assert [images.size(row) for row in range(3)] == [(20, 40), (40, 20), (30, 30)]
    assert images.file_name(1) == "inner/a.png"
    assert torch.equal(images.image(0), noise(20, 40))
    assert torch.equal(images.image(1), noise(40, 20))


def test_gaps_between_category_ids_are_closed_in_their_order(tmp_path: Path) -> None:
    images = read(tmp_path)
    assert images.category_ids == (2, 4, 9)
    assert images.class_names == ("b", "d", "i")
    assert images.num_classes == 4


def test_boxes_are_corners_clipped_to_the_image_without_crowds(tmp_path: Path) -> None:
    images = read(tmp_path)
    # In 20 x 40 pixels: 30 + 20 goes beyond 40.
    assert images.boxes(0).box.tolist() == [[30, 10, 40, 15.25]]
    assert images.boxes(0).label.tolist() == [1]
    # In 40 x 20 pixels, in the file's order: 9 is the third category; -2 is clipped, -2 + 10 = 8
    # is not, 5 + 50 goes beyond 40.
    assert images.boxes(1).box.tolist() == [[1.5, 2, 4.5, 6], [0, 5, 8, 40]]
    assert images.boxes(1).label.tolist() == [3, 2]
    assert images.boxes(2).box.shape == (0, 4)
    assert images.boxes(2).label.shape == (0,)


def test_kept_ids_are_the_labels_and_gaps_are_named(tmp_path: Path) -> None:
    images = read(tmp_path, keep_ids=True)
    assert images.num_classes == 10
    assert images.category_ids == tuple(range(1, 10))
    unused = [f"unused {one}" for one in (1, 3, 5, 6, 7, 8)]
    assert images.class_names == (unused[0], "b", unused[1], "d", *unused[2:], "i")
    assert images.boxes(1).label.tolist() == [9, 4]
    assert [one["id"] for one in images.ground_truth()["categories"]] == [2, 4, 9]


def test_an_id_that_is_the_backgrounds_is_closed_but_not_kept(tmp_path: Path) -> None:
    given = content()
    given["categories"][1]["id"] = 0
    for annotation in given["annotations"]:
        annotation["category_id"] = {9: 9, 2: 0, 4: 4}[annotation["category_id"]]
    assert read(tmp_path, given).boxes(0).label.tolist() == [1]
    with pytest.raises(UserError, match=r"category b has the id 0, .*keep_ids=false"):
        read(tmp_path, given, keep_ids=True)


def test_kept_ids_are_not_so_high_that_the_detector_outgrows_memory(tmp_path: Path) -> None:
    given = content()

    def with_id(highest: int) -> dict[str, Any]:
        given["categories"][0]["id"] = given["annotations"][0]["category_id"] = highest
        return given

    assert read(tmp_path, with_id(10_000), keep_ids=True).num_classes == 10_001
    for highest in (10_001, 2**60):
        told = rf"^category i has the id {highest}, .* 10000 at most: give keep_ids=false$"
        with pytest.raises(UserError, match=told):
            read(tmp_path, with_id(highest), keep_ids=True)
        assert read(tmp_path, given).num_classes == 4


def test_the_ground_truth_is_the_file_to_pycocotools_crowds_and_unclipped_boxes_too(
    tmp_path: Path,
) -> None:
    expected = by_pycocotools(content())
    found = by_pycocotools(json.loads(json.dumps(read(tmp_path).ground_truth())))
    assert found.getImgIds() == expected.getImgIds()
    assert sorted(found.getCatIds()) == sorted(expected.getCatIds())
    for one in expected.dataset["annotations"]:
        one.setdefault("area", one["bbox"][2] * one["bbox"][3])
        one.setdefault("iscrowd", 0)
        assert found.anns[one["id"]] == one
    assert len(found.anns) == 4


@pytest.mark.parametrize("identities", [[0, 1, 2, 3], [7, 7, 8, 9]])
def test_annotations_with_an_id_of_zero_or_twice_are_numbered_anew(
    tmp_path: Path, identities: list[int]
) -> None:
    given = content()
    for one, identity in zip(given["annotations"], identities, strict=True):
        one["id"] = identity
    numbered = [one["id"] for one in read(tmp_path, given).ground_truth()["annotations"]]
    assert numbered == [1, 2, 3, 4]


def test_a_selection_keeps_each_images_pixels_boxes_and_ground_truth(tmp_path: Path) -> None:
    images = read(tmp_path)
    chosen = images.select([2, 1, 0]).select(torch.tensor([1, 0]))
    assert [chosen.image_id(row) for row in range(len(chosen))] == [10, 20]
    assert torch.equal(chosen.image(0), noise(40, 20))
    assert torch.equal(chosen.boxes(0).box, images.boxes(1).box)
    assert len(chosen.boxes(1).box) == 0
    turned = images.select([1, 0])
    for row, origin in enumerate((1, 0)):
        assert torch.equal(turned.boxes(row).box, images.boxes(origin).box)
    told = chosen.ground_truth()
    assert [one["id"] for one in told["images"]] == [10, 20]
    assert [one["id"] for one in told["annotations"]] == [5, 9, 4]
    assert [one["id"] for one in told["categories"]] == [2, 4, 9]


def test_a_box_without_area_is_not_learnt_but_stays_in_the_ground_truth(tmp_path: Path) -> None:
    # COCO's own train2017 has two such boxes, of height 0.
    given = content()
    given["annotations"][0]["bbox"] = [1.5, 2, 3, 0.0]
    images = read(tmp_path, given)
    assert images.boxes(1).label.tolist() == [2]
    assert images.without_area == (5,)
    assert read(tmp_path).without_area == ()
    assert [3, 0] in [one["bbox"][2:] for one in images.ground_truth()["annotations"]]


def test_categories_of_one_name_are_told_apart(tmp_path: Path) -> None:
    given = content()
    given["categories"][0]["name"] = "b"
    assert read(tmp_path, given).class_names == ("b (id 2)", "d", "b (id 9)")


def test_a_set_without_any_annotation_is_read(tmp_path: Path) -> None:
    images = read(tmp_path, content() | {"annotations": []})
    assert [len(images.boxes(row).box) for row in range(3)] == [0, 0, 0]
    assert images.ground_truth()["annotations"] == []


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "LA"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    images = read(tmp_path)
    picture = Image.linear_gradient("L").resize((30, 30)).convert("RGB").convert(mode)
    file = tmp_path / "images" / "b.png"
    picture.save(file, format="TIFF" if mode == "CMYK" else "PNG")
    assert torch.equal(images.image(2), pil_to_tensor(picture.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_their_boxes_are(tmp_path: Path, orientation: int) -> None:
    images = read(tmp_path)
    file = tmp_path / "images" / "c.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.open(file)
    stored = upright
    if orientation > 1:  # what a viewer turns back
        undone = {6: 8, 8: 6}.get(orientation, orientation)
        before = Image.Exif()
        before[0x0112] = undone
        content = io.BytesIO()
        upright.save(content, "PNG", exif=before)
        stored = ImageOps.exif_transpose(Image.open(content))
    assert (stored.size == upright.size) == (orientation < 5)
    stored.save(file, exif=exif)
    assert torch.equal(images.image(0), noise(20, 40))


def test_a_size_of_the_stored_image_is_refused_with_the_word_exif(tmp_path: Path) -> None:
    images = read(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "images" / "c.png"
    Image.open(file).save(file, exif=exif)  # stored as annotated: 40 x 20
    told = r"c\.png is 20 x 40 pixels once upright \(EXIF orientation 6\), but .* state 40 x 20: "
    with pytest.raises(UserError, match=told):
        images.image(0)


def test_sixteen_bits_are_scaled_and_not_cut_to_white(tmp_path: Path) -> None:
    images = read(tmp_path)
    Image.new("I;16", (30, 30), 60000).save(tmp_path / "images" / "b.png")
    assert images.image(2).unique().tolist() == [233]  # 60000 / 257 = 233.46


def test_an_image_of_another_size_than_annotated_is_named(tmp_path: Path) -> None:
    images = read(tmp_path)
    Image.new("RGB", (31, 30)).save(tmp_path / "images" / "b.png")
    with pytest.raises(UserError, match=r"b\.png is 31 x 30 pixels, .* state 30 x 30: fix"):
        images.image(2)


@pytest.mark.parametrize("kept", [0, 100, 0.7])
def test_a_truncated_image_is_named(tmp_path: Path, kept: float) -> None:
    images = read(tmp_path)
    file = tmp_path / "images" / "c.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(UserError, match=r"c\.png cannot be decoded .*replace or remove it") as told:
        images.image(0)
    assert "\n" not in str(told.value)


def test_the_first_missing_image_is_named_and_all_are_counted(tmp_path: Path) -> None:
    write(tmp_path)
    shutil.rmtree(tmp_path / "images" / "inner")
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(UserError, match=r"^2 of the 3 images .*inner/a\.png \(image 10\), are not"):
        read_coco(tmp_path / "images", tmp_path / "annotations.json")
    with pytest.raises(UserError, match=r"^no folder .*/other for the images of .*: fix the path"):
        read_coco(tmp_path / "other", tmp_path / "annotations.json")


def test_two_sets_of_different_categories_are_refused(tmp_path: Path) -> None:
    given = content()
    given["categories"].append({"id": 11, "name": "k\nl"})
    train, test = read(tmp_path), read(tmp_path, given)
    with pytest.raises(UserError, match="category k l with the id 11 is in the test annotation"):
        _ = DetectionSets(train, test).train
    with pytest.raises(UserError, match="category k l with the id 11 is in the training annot"):
        _ = DetectionSets(test, train).train
    assert DetectionSets(train, train).num_classes == 4
    assert DetectionSets(train, train).class_names == ("b", "d", "i")


def config(name: str, **options: Any) -> Any:
    folder = Path(rlkd.configs.__file__).parent / "data"
    return instantiate(OmegaConf.load(folder / f"{name}.yaml"), **options)


def test_a_set_of_ones_own_needs_its_root_alone_or_with_its_paths(tmp_path: Path) -> None:
    file = write(tmp_path)
    (tmp_path / "annotations").mkdir()
    for part in ("train2017", "val2017"):
        shutil.copytree(tmp_path / "images", tmp_path / part)
        shutil.copy(file, tmp_path / "annotations" / f"instances_{part}.json")
    sets: DetectionSets = config("coco", root=str(tmp_path))
    assert (len(sets.train), len(sets.test), sets.num_classes) == (3, 3, 4)
    shutil.move(tmp_path / "train2017", tmp_path / "mine")
    with pytest.raises(UserError, match=r"has no train2017: fix .*or give data\.train_images=PA"):
        _ = coco(tmp_path).train
    assert len(coco(tmp_path).test) == 3  # what only scores needs no training images
    assert len(coco(tmp_path, train_images="mine").train) == 3
    with pytest.raises(UserError, match=r"no folder .*/nowhere: fix data\.root"):
        coco(tmp_path / "nowhere")


def test_real_images_and_boxes_are_those_that_pycocotools_counts(real_data: RealData) -> None:
    root = real_data("coco128")
    sets = coco(root)
    learnt = crowds = 0
    for part, images in (("train", sets.train), ("val", sets.test)):
        file = root / "annotations" / f"instances_{part}2017.json"
        expected = by_pycocotools(json.loads(file.read_text()))
        assert [images.image_id(row) for row in range(len(images))] == list(expected.imgs)
        kinds = expected.loadCats(expected.getCatIds())
        assert images.class_names == tuple(one["name"] for one in kinds)
        crowds += len(expected.getAnnIds(iscrowd=True))
        for row in range(len(images)):
            check_image(images, row, expected)
            learnt += len(images.boxes(row).label)
    assert (len(sets.train), len(sets.test), sets.num_classes) == (96, 32, 81)
    assert (learnt, crowds) == (939 - 10, 10)


def check_image(images: CocoSet, row: int, expected: Any) -> None:
    found = images.boxes(row)
    named = expected.loadAnns(expected.getAnnIds(images.image_id(row), iscrowd=False))
    boxes = torch.tensor([one["bbox"] for one in named], dtype=torch.float64).view(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    # float32 has steps of 640 / 2^24, 4e-5.
    torch.testing.assert_close(found.box.double(), boxes, rtol=0, atol=1e-4)
    kinds = [images.category_ids[label - 1] for label in found.label.tolist()]
    assert kinds == [one["category_id"] for one in named]
    if row < 5:
        assert images.image(row).shape == (3, *images.size(row))
