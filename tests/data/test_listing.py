"""The one lister: the same files in the same order for every loader and for `predict`."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.data.streams import SMALL, encoded
from torchvision.datasets import ImageFolder

from rlkd.data.datasets import folder as read_folder
from rlkd.data.datasets import imagenet
from rlkd.data.sources.folder import class_folders, list_folder
from rlkd.data.sources.listing import ENDINGS, list_images
from rlkd.errors import UserError
from rlkd.tasks.prediction_folder import image_files

HIDDEN = ("a/._x.png", "a/.ipynb_checkpoints/x-checkpoint.png", "a/__MACOSX/x.png", "a/.DS_Store")


def write(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(0))
    return root


def of_a_folder(root: Path) -> list[str]:
    """What data=folder reads; it keeps pixels, not names."""
    write(root, "test/a/x.png")
    return [""] * len(read_folder(root=root, image_size=8).train)


def of_a_stream(root: Path) -> list[str]:
    source = list_folder(root / "train", ["a"])
    return [os.path.relpath(source.place(row), root / "train") for row in range(len(source))]


def of_a_prediction(root: Path) -> list[str]:
    files, _ = image_files(root / "train", root / "out")
    return [str(file.relative_to(root / "train")) for file in files]


LISTERS = {"folder": of_a_folder, "imagenet": of_a_stream, "predict": of_a_prediction}
EveryLister = pytest.mark.parametrize("lister", LISTERS.values(), ids=LISTERS.keys())
Lister = Callable[[Path], list[str]]


@EveryLister
def test_what_is_hidden_is_left_out_without_a_word(lister: Lister, tmp_path: Path) -> None:
    write(tmp_path / "train", "a/1.png", "a/sub/2.png", *HIDDEN)
    assert len(lister(tmp_path)) == 2


@EveryLister
@pytest.mark.parametrize("ending", [*ENDINGS, ".JPEG", ".JFIF", ".Gif", ".TIF"])
def test_every_ending_is_listed_in_any_case(lister: Lister, ending: str, tmp_path: Path) -> None:
    write(tmp_path / "train", "a/1.png", f"a/2{ending}")
    assert len(lister(tmp_path)) == 2


@EveryLister
def test_links_are_followed_and_loops_end(lister: Lister, tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "elsewhere/2.png", "elsewhere/deep/3.png")
    (tmp_path / "train/a/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/a/self").symlink_to(tmp_path / "train/a")
    assert len(lister(tmp_path)) == 3


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/1.png", "test/a/x.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a").symlink_to(tmp_path / "elsewhere")
    assert len(read_folder(root=tmp_path, image_size=8).train) == 1
    assert len(imagenet(root=tmp_path, test="test", **SMALL).train) == 1


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / split, "a/1.png", ".ipynb_checkpoints/1.png", "__MACOSX/1.png")
    assert read_folder(root=tmp_path, image_size=8).class_names == ("a",)
    assert imagenet(root=tmp_path, test="test", **SMALL).class_names == ("a",)


def test_the_order_is_torchvisions(tmp_path: Path) -> None:
    names = ("b.png", "B.png", "x/1.png", "x-y/1.png", "x/deep/0.png", "10.png", "9.png", "é/1.png")
    write(tmp_path / "a", *names)
    expected = [os.path.relpath(path, tmp_path / "a") for path, _ in ImageFolder(tmp_path).samples]
    assert list_images(tmp_path / "a").images == expected
    assert len(expected) == len(names)


@pytest.mark.parametrize("lister", [of_a_folder, of_a_stream])
def test_files_of_other_endings_are_counted_in_one_warning(lister: Lister, tmp_path: Path) -> None:
    write(tmp_path / "train", "a/1.png", "a/2", "a/3.heic", "a/sub/4.txt", "a/5.npy")
    told = r"^left out of .*train, .*\.jfif.*: 4 of its files, a/2, a/3\.heic, a/5\.npy, \.\.\.$"
    with pytest.warns(UserWarning, match=told) as said:
        assert len(lister(tmp_path)) == 1
    assert len(said) == 1


def test_a_folder_without_access_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/1.png")

    def refused(place: str) -> None:
        raise PermissionError(13, "Permission denied", place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        list_images(tmp_path)


def test_images_and_labels_stay_together_in_sub_folders(tmp_path: Path) -> None:
    write(tmp_path, "a/z.png", "a/sub/1.png", "b/1.png")
    source = list_folder(tmp_path, ["a", "b"])
    assert torch.equal(source.target, torch.tensor([0, 0, 1]))
    assert [Path(source.place(row)).name for row in range(3)] == ["z.png", "1.png", "1.png"]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    name = os.fsdecode(b"\xff0.png")
    (tmp_path / "a" / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"\\udcff0\.png.*not UTF-8 text; rename it"):
        list_images(tmp_path / "a")
    (tmp_path / os.fsdecode(b"\xffc")).mkdir()
    with pytest.raises(UserError, match=r"\\udcffc.*not UTF-8 text; rename it"):
        class_folders(tmp_path)
