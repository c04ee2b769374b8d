import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from rlkd.data import ImageSet
from rlkd.data.datasets import folder, imagenet
from rlkd.errors import UserError

PixelMaker = Callable[..., Tensor]


def load_folder(root: Path, **options: Any) -> tuple[ImageSet, ImageSet]:
    dataset = folder(root=root, **options)
    assert isinstance(dataset.train, ImageSet)
    assert isinstance(dataset.test, ImageSet)
    return dataset.train, dataset.test


@pytest.fixture
def root(tmp_path: Path, write_png: Callable[..., None], pixels_of: PixelMaker) -> Path:
    """Two classes: 6 cats and 4 dogs to train on, one of each to test on; 8 x 8."""
    pixels = pixels_of(12, 8)
    for row in range(10):
        name = "cat" if row < 6 else "dog"
        write_png(tmp_path / "train" / name / f"{row}.png", pixels[row])
    write_png(tmp_path / "test/cat/a.png", pixels[10])
    write_png(tmp_path / "test/dog/a.png", pixels[11])
    return tmp_path


def test_images_of_the_right_size_are_read_as_they_are(root: Path, pixels_of: PixelMaker) -> None:
    train, test = load_folder(root, image_size=8)
    assert torch.equal(train.image, pixels_of(12, 8)[:10])
    assert train.target.tolist() == [0] * 6 + [1] * 4
    assert train.class_names == test.class_names == ("cat", "dog")
    assert torch.equal(test.image, pixels_of(12, 8)[10:])
    assert test.target.tolist() == [0, 1]


def test_a_wide_image_keeps_its_middle_square(
    root: Path, write_png: Callable[..., None], pixels_of: PixelMaker
) -> None:
    wide = torch.cat(list(pixels_of(2, 8)), dim=2)  # 8 x 16
    write_png(root / "test/cat/a.png", wide)
    _, test = load_folder(root, image_size=8)
    assert torch.equal(test.image[0], wide[:, :, 4:12])


def test_larger_images_are_resized_by_the_shorter_side(root: Path) -> None:
    picture = Image.linear_gradient("L").resize((40, 24))
    picture.save(root / "test/cat/a.png")
    _, test = load_folder(root, image_size=8)
    # 40 x 24 becomes 13 x 8, of which columns round(2.5) = 2 to 9 are kept.
    resized = transforms.pil_to_tensor(
        picture.convert("RGB").resize((13, 8), Image.Resampling.BILINEAR)
    )
    assert torch.equal(test.image[0], resized[:, :, 2:10])


def test_val_stands_in_for_test(root: Path) -> None:
    (root / "test").rename(root / "val")
    assert len(load_folder(root, image_size=8)[1]) == 2
    with pytest.raises(UserError, match=r"no folder test: .*data\.test_fraction"):
        load_folder(root, image_size=8, test="test")


def test_a_fraction_splits_the_training_images(root: Path) -> None:
    (root / "test").rename(root / "other")
    train, test = load_folder(root, image_size=8, test_fraction=0.5)
    assert train.target.bincount().tolist() == [3, 2]
    assert test.target.bincount().tolist() == [3, 2]
    together = torch.cat([train.image, test.image]).flatten(1).unique(dim=0)
    assert len(together) == 10
    with pytest.raises(UserError, match=r"no folder test or val.*data\.test_fraction"):
        load_folder(root, image_size=8)
    with pytest.raises(UserError, match=r"data\.test_fraction=1\.0"):
        load_folder(root, image_size=8, test_fraction=1.0)


def test_a_fraction_beside_a_test_folder_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.5 is given but .*test exists"):
        load_folder(root, image_size=8, test_fraction=0.5)


def test_a_limit_keeps_shares_and_is_applied_before_decoding(root: Path) -> None:
    whole, _ = load_folder(root, image_size=8)
    train, test = load_folder(root, image_size=8, limit=5)
    assert train.target.bincount().tolist() == [3, 2]
    assert len(test) == 2
    left = [
        row
        for row in range(10)
        if not any(torch.equal(whole.image[row], image) for image in train.image)
    ]
    for row in left:
        (root / "train" / ("cat" if row < 6 else "dog") / f"{row}.png").write_bytes(b"")
    assert torch.equal(load_folder(root, image_size=8, limit=5)[0].image, train.image)


def test_a_root_that_is_not_there_is_named_before_what_is_to_be_tested_on(root: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*/absent: fix data\.root"):
        load_folder(root / "absent", image_size=8)


def test_classes_that_lie_in_the_root_itself_are_pointed_at(root: Path) -> None:
    with pytest.raises(UserError, match=r"give data\.train=\. data\.test_fraction=0\.2"):
        load_folder(root / "train", image_size=8)
    assert load_folder(root / "train", image_size=8, train=".", test_fraction=0.2)


@pytest.mark.parametrize("load", [partial(load_folder, image_size=8), imagenet])
def test_splits_of_other_names_are_named(root: Path, load: Callable[..., object]) -> None:
    (root / "train").rename(root / "held out")
    (root / "test").rename(root / "val")
    with pytest.raises(
        UserError, match=r"\(held out, val\) give data\.train=NAME data\.test=NAME$"
    ):
        load(root=root)
    assert load(root=root, train="held out", test="val")


def test_a_corrupt_image_is_named(root: Path) -> None:
    file = root / "train/dog/7.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match=r"train/dog/7\.png cannot be decoded"):
        load_folder(root, image_size=8)


def test_corrupt_images_are_named_together(root: Path) -> None:
    for row in range(1, 6):
        (root / f"train/cat/{row}.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        load_folder(root, image_size=8)
    reason = r"\(it is none of JPEG, [^)]*\)"
    named = ", ".join(rf"{root}/train/cat/{row}\.png {reason}" for row in (1, 2, 3))
    told = f"5 image files cannot be decoded: {named} and 2 more; replace or remove them, or give "
    assert re.fullmatch(f"{told}data.unreadable=skip", str(caught.value))


def test_an_empty_class_is_named(root: Path) -> None:
    (root / "test/cat/a.png").rename(root / "test/cat/a.txt")
    with pytest.raises(UserError, match=r"test/cat has no images"):
        load_folder(root, image_size=8)


@pytest.mark.parametrize(("split", "lacking"), [("test", "train"), ("train", "test")])
def test_the_first_class_of_one_split_alone_is_named(root: Path, split: str, lacking: str) -> None:
    (root / split / "bird").mkdir()
    (root / split / "eel").mkdir()
    with pytest.raises(UserError, match=f"class bird is in .*/{split} but not in .*/{lacking}:"):
        load_folder(root, image_size=8)


def test_a_missing_or_empty_training_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match=r"no folder .*train: .*data\.root"):
        load_folder(tmp_path, image_size=8)
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="train has no class folders"):
        load_folder(tmp_path, image_size=8)


def test_images_beyond_the_memory_limit_are_refused_before_decoding(root: Path) -> None:
    # 12 images of 3 x 10,000 x 10,000 bytes are 3.6e9 bytes, 3.35 GiB.
    with pytest.raises(UserError, match=r"need 3\.35 GiB .*data\.memory_limit_gib=2: raise it"):
        load_folder(root, image_size=10_000, memory_limit_gib=2.0)


def test_a_size_below_one_pixel_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"data\.image_size=0"):
        load_folder(root, image_size=0)
