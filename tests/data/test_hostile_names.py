"""Names of classes and files that are no text, and more of them than anybody has."""

import os
from pathlib import Path

import pytest
from tests.data.streams import CLASSES, SMALL, write_parquet, write_tar

from rlkd.data.cifar import load_cifar
from rlkd.data.datasets import parquet, webdataset
from rlkd.data.sources.shards import given_names
from rlkd.errors import UserError
from rlkd.tasks.prediction_folder import image_files


def test_more_classes_than_a_network_has_are_refused_before_they_are_named(tmp_path: Path) -> None:
    names = given_names(1_000_000)
    assert names is not None
    assert names[-1] == "999999"
    for count in (1_000_001, 99_999_999, 10**18):
        with pytest.raises(UserError, match=rf"gives {count:,} classes: give 1,000,000 at most"):
            given_names(count)
    file = tmp_path / "names.txt"
    file.write_text("a\n" * 1_000_001)
    with pytest.raises(UserError, match="gives 1,000,001 classes: give 1,000,000 at most"):
        given_names(str(file))


def renamed(file: Path) -> None:
    file.rename(os.fsdecode(os.fsencode(file).replace(b"train", b"train\xff")))


def test_shards_whose_names_are_no_text_are_refused(tmp_path: Path) -> None:
    told = r"train\\udcff.*: its name is not UTF-8 text; rename it"
    renamed(write_tar(tmp_path / "tar") / "train-2.tar")
    with pytest.raises(UserError, match=told):
        webdataset(root=tmp_path / "tar", class_names=list(CLASSES), **SMALL)
    root = write_parquet(tmp_path / "parquet")
    renamed(root / "train-00001-of-00003.parquet")
    with pytest.raises(UserError, match=told):
        load_cifar(root, num_classes=10)
    for file in root.glob("train-*"):
        renamed(file)
    with pytest.raises(UserError, match=told):
        parquet(root=root, **SMALL)


def test_what_is_neither_image_nor_folder_is_not_predicted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for source in (tmp_path / "a.png", Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{source} is neither file nor folder: name an image"):
            image_files(source, tmp_path / "output")
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    file.touch()
    with pytest.raises(UserError, match=r"\\udcff\.png'?: its name is not UTF-8 text; rename it"):
        image_files(file, tmp_path / "output")
