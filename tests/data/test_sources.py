"""What streams are listed from: folders, Parquet shards, tar shards; and what is refused."""

import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.data.streams import (
    CLASSES,
    COUNT,
    SMALL,
    encoded,
    in_folder,
    in_parquet,
    in_tar,
    loader_of,
    numbers,
    write_folder,
    write_parquet,
    write_tar,
)
from torchvision.datasets import ImageFolder

from rlkd.data import StreamSet
from rlkd.data.datasets import imagenet, parquet, webdataset
from rlkd.data.sources.folder import Names, list_folder
from rlkd.data.sources.shards import given_names
from rlkd.errors import UserError


def streamed(images: Any) -> StreamSet:
    assert isinstance(images, StreamSet)
    return images


def test_a_folder_is_listed_as_torchvision_lists_it(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for name in ("b/deep/er/9.PNG", "b/deep/1.jpeg", "b/é.webp"):
        file = tmp_path / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(0))
    expected = ImageFolder(str(tmp_path / "train"))
    source = list_folder(tmp_path / "train", expected.classes)
    places = [source.place(row) for row in range(len(source))]
    assert places == [os.path.normpath(path) for path, _ in expected.samples]
    assert source.target.tolist() == expected.targets
    assert len(places) == COUNT + 3


def test_a_source_reads_the_same_after_it_was_sent_to_another_process(tmp_path: Path) -> None:
    for make in (in_folder, in_parquet, in_tar):
        source = streamed(make(tmp_path / make.__name__).train).source
        content = [source.encoded(row) for row in range(COUNT)]
        sent = pickle.loads(pickle.dumps(source))
        assert [sent.encoded(row) for row in reversed(range(COUNT))] == content[::-1]
        assert sorted(content) == sorted(map(encoded, range(COUNT)))


def test_names_are_held_without_a_loss() -> None:
    names = ["", "a", "größer/ü.png", "x" * 300, os.fsdecode(b"\xff.png")]
    held = Names(names)
    assert [held[row] for row in range(len(held))] == names


@pytest.mark.parametrize(("split", "lacking"), [("val", "train"), ("train", "val")])
def test_a_class_that_one_split_lacks_is_named(tmp_path: Path, split: str, lacking: str) -> None:
    write_folder(tmp_path)
    (tmp_path / split / "aa").mkdir()
    with pytest.raises(UserError, match=f"class aa is in .*/{split} but not in .*/{lacking}:"):
        imagenet(root=tmp_path, **SMALL)


def test_an_empty_class_and_a_missing_split_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for split in ("train", "val"):
        (tmp_path / split / "empty").mkdir()
    with pytest.raises(UserError, match=r"train/empty has no images"):
        imagenet(root=tmp_path, **SMALL)
    with pytest.raises(UserError, match=r"no folder .*/nowhere: .*data\.root"):
        imagenet(root=tmp_path, test="nowhere", **SMALL)


def test_row_groups_are_read_whole_and_once_each_when_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = streamed(in_parquet(tmp_path).train)
    read: list[int] = []
    once = type(images.source)._read  # pyright: ignore

    def spy(self: Any, group: int) -> Any:
        read.append(group)
        return once(self, group)

    monkeypatch.setattr(type(images.source), "_read", spy)
    list(loader_of(images))
    # 9 groups, 3 a shard; an epoch mixes two at a time and comes back to none.
    assert sorted(read) == list(range(9))
    assert images.source.group_starts is not None
    assert images.source.group_starts.tolist() == [0, 3, 6, 8, 11, 14, 16, 19, 22]


def test_parquet_takes_its_class_names_from_the_shards_or_from_the_option(tmp_path: Path) -> None:
    told = write_parquet(tmp_path / "told")
    silent = write_parquet(tmp_path / "silent", described=False)
    assert parquet(root=told, **SMALL).class_names == CLASSES
    assert parquet(root=silent, class_names=["x", "y", "z"], **SMALL).class_names == (*"xyz",)
    with pytest.raises(UserError, match=r"does not name its classes: give data\.class_names"):
        parquet(root=silent, **SMALL)
    with pytest.raises(UserError, match=r"train-00000-of-00003\.parquet, row 2 has label 2, not 0"):
        parquet(root=silent, class_names=2, **SMALL)
    with pytest.raises(UserError, match=r"no column picture, only image, label: give data\.image"):
        parquet(root=told, image_column="picture", **SMALL)
    with pytest.raises(UserError, match=r"column label is int64, not bytes"):
        parquet(root=told, image_column="label", **SMALL)


def test_given_class_names_are_held_against_those_that_the_shards_tell(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "one")
    assert parquet(root=root, class_names=["x", "y", "z"], **SMALL).class_names == (*"xyz",)
    with pytest.raises(UserError, match=r"another order .*: class 1 is c, of the shards b"):
        parquet(root=root, class_names=["a", "c", "b"], **SMALL)
    with pytest.raises(UserError, match=r"gives 4 classes, the shards 3"):
        parquet(root=root, class_names=4, **SMALL)
    other = write_parquet(tmp_path / "other", classes="bac")
    (other / "test-00000-of-00001.parquet").replace(root / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"train-00000.* and .*test-00000.* name different classes"):
        parquet(root=root, class_names=3, **SMALL)


def test_a_split_without_labels_is_refused_with_one_that_has_them(tmp_path: Path) -> None:
    file = write_parquet(tmp_path) / "test-00000-of-00001.parquet"
    bare = pq.read_table(file).set_column(1, "label", pa.array([-1] * COUNT))
    pq.write_table(bare, file)
    with pytest.raises(
        UserError, match=r"test-.*, row 0 has no label \(-1\): .* data\.test='\*\*/\*validation\*\."
    ):
        parquet(root=tmp_path, **SMALL)


@pytest.mark.parametrize("way", ["named twice", "by a link", "by two patterns"])
def test_a_shard_that_is_listed_twice_is_refused(tmp_path: Path, way: str) -> None:
    root, names = write_tar(tmp_path), ["train-0.tar", "train-1.tar"]
    if way == "by a link":
        (root / "more-0.tar").symlink_to(root / "train-1.tar")
        names.append("more-0.tar")
    else:
        names.append("train-1.tar" if way == "named twice" else "train-*.tar")
    with pytest.raises(UserError, match=r"data\.train lists the shard .* twice") as caught:
        webdataset(root=root, train=names, class_names=3, **SMALL)
    assert "\n" not in str(caught.value)


def test_shards_that_are_absent_are_told(tmp_path: Path) -> None:
    root = write_parquet(tmp_path)
    with pytest.raises(UserError, match=r"has no none-\*\.parquet: fix data\.root or data\.test"):
        parquet(root=root, test="none-*.parquet", **SMALL)
    with pytest.raises(UserError, match=r"data\.train is empty"):
        parquet(root=root, train=[], **SMALL)
    (root / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match="has 2 of the 3 files"):
        parquet(root=root, **SMALL)
    some = parquet(root=root, train="train-0000[02]-of-*", **SMALL)
    assert len(some.train) == 16
    with pytest.raises(UserError, match=r"data\.train=/.*: give file names within data\.root="):
        parquet(root=root, train=str(root / "train-*"), **SMALL)


def test_hidden_shards_are_left_out(tmp_path: Path) -> None:
    root = write_parquet(tmp_path)
    for name in ("._train-00000-of-00003.parquet", "__MACOSX/test.parquet", ".old/test.parquet"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"AppleDouble")
    assert len(parquet(root=root, **SMALL).train) == COUNT


def test_shards_are_numbered_in_each_folder_by_themselves(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_parquet(tmp_path / name)
    assert len(parquet(root=tmp_path, **SMALL).train) == 2 * COUNT
    (tmp_path / "other" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match="other has 2 of the 3 files"):
        parquet(root=tmp_path, **SMALL)


def test_class_names_are_given_as_a_list_a_file_a_number_or_imagenet(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog \n\n")
    assert given_names(str(file)) == given_names(["cat", "dog"]) == ("cat", "dog")
    assert given_names(3) == ("0", "1", "2")
    assert given_names(None) is None
    imagenet = given_names("imagenet")
    assert imagenet is not None
    assert (len(imagenet), imagenet[0]) == (1000, "n01440764")
    with pytest.raises(UserError, match=r"data\.class_names has a twice"):
        given_names(["a", "b", "a"])
    for wrong in ([], 0, True, 1.5):
        with pytest.raises(UserError, match=r"data\.class_names="):
            given_names(wrong)
    with pytest.raises(UserError, match=r"nowhere\.txt does not exist"):
        given_names(str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, r"data\.workers=-1"),
        ({"prefetch": 0}, r"data\.prefetch=0"),
        ({"image_size": 0}, r"data\.image_size=0"),
        ({"resize": 7}, r"data\.resize=7: give at least 8, .*data\.image_size"),
        ({"smallest_area": 0.0}, r"data\.smallest_area=0\.0"),
        ({"limit": 25}, r"data\.limit=25: there are 24"),
    ],
)
def test_options_out_of_range_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        in_folder(tmp_path, **options)


def test_a_limit_keeps_some_training_images_of_each_class(tmp_path: Path) -> None:
    dataset = in_folder(tmp_path, limit=6)
    assert dataset.train.target.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(dataset.test) == COUNT
    found = sorted(n for batch in loader_of(dataset.train) for n in numbers(batch.image))
    assert [sum(n % 3 == k for n in found) for k in range(3)] == [2, 2, 2]


def test_labels_of_an_unknown_class_are_named_by_place(tmp_path: Path) -> None:
    images = streamed(in_folder(tmp_path).train)
    with pytest.raises(UserError, match=r"train/a/00\.png has label 3, not 0 to 2"):
        StreamSet(images.source, images.row, torch.full((COUNT,), 3), images.class_names)
