"""Tar shards: which samples they hold, and what is refused of them."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.streams import CLASSES, COUNT, SMALL, add, encoded, loader_of, numbers, write_tar

from rlkd.data.datasets import webdataset
from rlkd.errors import UserError

DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "cut before a header": lambda shard, at: shard[:at],
    "cut within a header": lambda shard, at: shard[: at + 100],
    "a bit of a header": lambda shard, at: shard[:at] + bytes([shard[at] ^ 1]) + shard[at + 1 :],
    "zeros for a header": lambda shard, at: shard[:at] + bytes(512) + shard[at + 512 :],
    "two in one": lambda shard, at: shard + shard,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_tar_shard_that_would_lose_images_is_named(tmp_path: Path, damage: str) -> None:
    file = write_tar(tmp_path) / "train-2.tar"
    with tarfile.open(file) as tar:
        at = tar.getmembers()[4].offset  # of the third of six samples
    file.write_bytes(DAMAGES[damage](file.read_bytes(), at))
    with pytest.raises(UserError, match=r"train-2\.tar is no .* does not close with an end mark"):
        webdataset(root=tmp_path, class_names=3, **SMALL)


def tar_of(file: Path, **content: bytes) -> Path:
    """A shard of one sample of files in that order."""
    with tarfile.open(file, "w") as tar:
        for suffix, each in content.items():
            add(tar, f"one.{suffix}", each)
    return file.parent


def test_a_tar_sample_means_the_same_in_any_order_of_its_files(tmp_path: Path) -> None:
    names, image = ["1", "0", "c"], encoded(4)
    tar_of(tmp_path / "train.tar", json=b'{"label": "c"}', cls=b"1", png=image)
    tar_of(tmp_path / "val.tar", png=image, cls=b"1", json=b'{"label": "c"}')
    dataset = webdataset(root=tmp_path, class_names=names, **SMALL)
    assert dataset.train.target.tolist() == dataset.test.target.tolist() == [1]
    tar_of(tmp_path / "train.tar", json=b'{"label": "1"}', png=image)
    tar_of(tmp_path / "val.tar", json=b'{"label": 1}', png=image)
    dataset = webdataset(root=tmp_path, class_names=names, **SMALL)
    assert (dataset.train.target.tolist(), dataset.test.target.tolist()) == ([0], [1])
    tar_of(tmp_path / "val.tar", png=image, cls=b"1", jpg=image)
    with pytest.raises(UserError, match=r"val\.tar: one has two images"):
        webdataset(root=tmp_path, class_names=names, **SMALL)


def test_tar_labels_may_be_numbers_or_names(tmp_path: Path) -> None:
    root = write_tar(tmp_path, as_json=True)
    dataset = webdataset(root=root, class_names=list(CLASSES), **SMALL)
    assert dataset.train.target.tolist() == [number % 3 for number in range(COUNT)]
    with pytest.raises(UserError, match=r"train-0\.tar: set/0002 has the label c, not a class"):
        webdataset(root=root, class_names=["a", "b"], **SMALL)
    with pytest.raises(UserError, match=r"set/0000 has no label: .*data\.label_key"):
        webdataset(root=root, class_names=3, label_key="other", **SMALL)
    with pytest.raises(UserError, match="do not name their classes"):
        webdataset(root=root, **SMALL)


def test_tar_samples_without_an_image_and_broken_tars_are_named(tmp_path: Path) -> None:
    root = write_tar(tmp_path)
    with tarfile.open(root / "train-4.tar", "w") as tar:
        add(tar, "set/0099.cls", b"1")
    with pytest.raises(UserError, match=r"train-4\.tar: set/0099 has no image"):
        webdataset(root=root, class_names=3, **SMALL)
    whole = (root / "train-0.tar").read_bytes()
    (root / "train-4.tar").write_bytes(whole[:2000])
    with pytest.raises(UserError, match=r"train-4\.tar is no uncompressed tar file, or is cut"):
        webdataset(root=root, class_names=3, **SMALL)
    with tarfile.open(root / "train-4.tar", "w:gz") as tar:
        add(tar, "set/0099.cls", b"1")
    with pytest.raises(UserError, match=r"train-4\.tar is no uncompressed tar file"):
        webdataset(root=root, class_names=3, **SMALL)


def test_dots_in_folders_and_suffixes_of_two_parts_do_not_part_a_sample(tmp_path: Path) -> None:
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            add(tar, "v1.0/one.cls", b"1")
            add(tar, "v1.0/one.seg.png", encoded(7))  # another thing than its image
            add(tar, "v1.0/one.png", encoded(4))
    images = webdataset(root=tmp_path, class_names=3, **SMALL).train
    (batch,) = list(loader_of(images, batch_size=1))
    assert (numbers(batch.image), batch.target.tolist()) == ([4], [1])


def test_hidden_members_and_endings_of_every_kind(tmp_path: Path) -> None:
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            for name in ("./0.png", "./set/1.GIF", "./set/2.jfif", "../3.tiff"):
                add(tar, str(Path(name).parent / f"._{Path(name).name}"), b"AppleDouble")
                add(tar, name, encoded(0))
                add(tar, f"{name.rpartition('.')[0]}.cls", b"1")
            for hidden in ("__MACOSX/set/4", ".ipynb_checkpoints/5"):
                add(tar, f"{hidden}.png", encoded(0))
    dataset = webdataset(root=tmp_path, class_names=2, **SMALL)
    assert dataset.train.target.tolist() == [1] * 4


def test_a_missing_label_is_no_class_that_is_called_none(tmp_path: Path) -> None:
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            add(tar, "0.png", encoded(0))
    with pytest.raises(UserError, match=r"train\.tar: 0 has no label: .*data\.label_key"):
        webdataset(root=tmp_path, class_names=["None", "Some"], **SMALL)
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            add(tar, "0.png", encoded(0))
            add(tar, "0.cls", b"None")
    named = webdataset(root=tmp_path, class_names=["Some", "None"], **SMALL)
    assert named.train.target.tolist() == [1]
