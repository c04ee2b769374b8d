import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from tests.conftest import RealData
from torch import Tensor
from torchvision import datasets

from rlkd.data import load_cifar
from rlkd.data.cifar import CIFAR10, CIFAR100, CIFAR100_MEAN, CIFAR100_STD
from rlkd.errors import UserError

PixelMaker = Callable[..., Tensor]
ParquetWriter = Callable[..., Path]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels_of: PixelMaker) -> Path:
    """A CIFAR-100 archive of two images a class, pickled as Python 2 and an old numpy did."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()

    def write(name: str, content: object) -> tuple[str, str]:
        pickled = pickle.dumps(content, protocol=2)
        # numpy then wrote dtype('u1', 0, 1) where it now writes dtype('u1', False, True).
        pickled = pickled.replace(b"\x89\x88\x87R", b"K\x00K\x01\x87R")
        (folder / name).write_bytes(pickled)
        return name, hashlib.md5(pickled).hexdigest()

    for split, count in (("train", 200), ("test", 100)):
        data = pixels_of(count).view(count, -1).numpy().astype(np.uint8)
        labels = [row % 100 for row in range(count)]
        listed = write(split, {"data": data, "fine_labels": labels})
        monkeypatch.setattr(datasets.CIFAR100, f"{split}_list", [list(listed)])
    name, checksum = write("meta", {"fine_label_names": list(CIFAR100)})
    meta = {"filename": name, "key": "fine_label_names", "md5": checksum}
    monkeypatch.setattr(datasets.CIFAR100, "meta", meta)
    return tmp_path


@pytest.fixture
def parquet(tmp_path: Path, write_parquet: ParquetWriter, pixels_of: PixelMaker) -> Path:
    """CIFAR-10 as Parquet in `data/`: 20 training images in two files, 10 test images."""
    labels, pixels = [row % 10 for row in range(20)], pixels_of(20)
    for part in range(2):
        rows = slice(part * 10, part * 10 + 10)
        path = tmp_path / "data" / f"train-0000{part}-of-00002.parquet"
        write_parquet(path, pixels[rows], labels[rows])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", pixels_of(10), list(range(10)))
    return tmp_path


def test_the_official_archive_is_read_as_it_lies(archive: Path, pixels_of: PixelMaker) -> None:
    train, test = load_cifar(archive, num_classes=100)
    assert torch.equal(train.image, pixels_of(200))
    assert torch.equal(test.image, pixels_of(100))
    assert train.target.tolist() == [row % 100 for row in range(200)]
    assert train.class_names == CIFAR100


def test_a_changed_archive_fails_its_checksum(archive: Path) -> None:
    (archive / "cifar-100-python/test").write_bytes(b"other")
    with pytest.raises(UserError, match=r"cifar-100-python is .* corrupt .*data\.download=true"):
        load_cifar(archive, num_classes=100)


def test_parquet_files_are_read_in_their_order(parquet: Path, pixels_of: PixelMaker) -> None:
    train, test = load_cifar(parquet, num_classes=10)
    assert torch.equal(train.image, pixels_of(20))
    assert train.target.tolist() == [row % 10 for row in range(20)]
    assert torch.equal(test.image, pixels_of(10))
    assert train.class_names == CIFAR10


def test_fine_labels_are_preferred_for_100_classes(
    tmp_path: Path, write_parquet: ParquetWriter, pixels_of: PixelMaker
) -> None:
    labels = list(range(100))
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", pixels_of(100), labels, label="fine_label")
    train, _ = load_cifar(str(tmp_path), num_classes=100)
    assert train.target.tolist() == labels
    with pytest.raises(UserError, match=r"train\.parquet has no column label, only img, fine_l"):
        load_cifar(tmp_path, num_classes=10)


def test_the_wrong_cifar_is_told_by_its_classes(parquet: Path) -> None:
    with pytest.raises(UserError, match="images of 10 of the 100 classes"):
        load_cifar(parquet, num_classes=100)


def test_an_absent_shard_is_told(parquet: Path) -> None:
    (parquet / "data/train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match=r"data has 1 of the 2 files .*train-00000-of-00002"):
        load_cifar(parquet, num_classes=10)


def test_an_absent_split_is_told(parquet: Path) -> None:
    (parquet / "data/test-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"data has no \*test\*\.parquet"):
        load_cifar(parquet, num_classes=10)


def test_a_truncated_parquet_file_is_named(parquet: Path) -> None:
    file = parquet / "data/train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet cannot be read"):
        load_cifar(parquet, num_classes=10)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(30)])
def test_a_corrupt_image_is_named_with_its_row(
    parquet: Path, write_parquet: ParquetWriter, pixels_of: PixelMaker, content: bytes
) -> None:
    file = parquet / "data/test-00000-of-00001.parquet"
    write_parquet(file, pixels_of(10), list(range(10)), replace={7: content})
    with pytest.raises(UserError, match=r"test-00000-of-00001\.parquet, row 7 cannot be decoded"):
        load_cifar(parquet, num_classes=10)


def test_an_image_of_another_size_is_named_with_its_row(
    parquet: Path, write_parquet: ParquetWriter, pixels_of: PixelMaker
) -> None:
    file = parquet / "data/test-00000-of-00001.parquet"
    write_parquet(file, pixels_of(10, 28), list(range(10)))
    with pytest.raises(UserError, match="row 0 is 28 x 28"):
        load_cifar(parquet, num_classes=10)


@pytest.mark.parametrize("label", [10, -1, None])
def test_a_label_out_of_range_is_named_with_its_row(
    parquet: Path, write_parquet: ParquetWriter, pixels_of: PixelMaker, label: int | None
) -> None:
    told = (
        "parquet, row 2 has no label: fix" if label is None else f"row 2 has label {label}, not 0"
    )
    file = parquet / "data/test-00000-of-00001.parquet"
    write_parquet(file, pixels_of(10), [0, 1, label, *range(3, 10)])
    with pytest.raises(UserError, match=told):
        load_cifar(parquet, num_classes=10)


@pytest.mark.parametrize("naming", ["names", "numbers"])
def test_image_folders_follow_the_official_order_of_classes(
    tmp_path: Path, write_png: Callable[..., None], pixels_of: PixelMaker, naming: str
) -> None:
    # As text 10 comes before 2, so that a plain sort of the 100 numbers would be wrong.
    names = CIFAR100 if naming == "names" else tuple(str(index) for index in range(100))
    pixels = pixels_of(100)
    for index, name in enumerate(names):
        write_png(tmp_path / "train" / name / "0.png", pixels[index])
        write_png(tmp_path / "test" / name / "0.png", pixels[index])
    train, test = load_cifar(tmp_path, num_classes=100)
    order = train.target.argsort()
    assert torch.equal(train.target[order], torch.arange(100))
    assert torch.equal(train.image[order], pixels)
    assert torch.equal(test.image[test.target.argsort()], pixels)
    assert train.class_names == CIFAR100


def test_an_image_folder_of_other_classes_is_refused(
    tmp_path: Path, write_png: Callable[..., None], pixels_of: PixelMaker
) -> None:
    for split in ("train", "test"):
        write_png(tmp_path / split / "apple" / "0.png", pixels_of(1)[0])
    with pytest.raises(UserError, match=r"train/apple is no class of CIFAR-10: .*data=folder"):
        load_cifar(tmp_path, num_classes=10)


@pytest.mark.parametrize("folder", [".", "absent"])
def test_missing_data_is_told_with_the_ways_to_get_it(tmp_path: Path, folder: str) -> None:
    with pytest.raises(UserError, match=r"no CIFAR-100 in .*data\.download=true.*cifar-100-python"):
        load_cifar(tmp_path / folder, num_classes=100)


def test_a_download_without_a_network_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: datasets.CIFAR10) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(UserError, match=r"cannot download https.*no route to host.*network"):
        load_cifar(tmp_path, num_classes=10, download=True)


@pytest.mark.long
def test_the_real_cifar100_has_its_published_sizes_and_channel_means(real_data: RealData) -> None:
    train, test = load_cifar(real_data("cifar100"), num_classes=100)
    assert (len(train), len(test)) == (50_000, 10_000)
    assert set(train.target.bincount().tolist()) == {500}
    assert set(test.target.bincount().tolist()) == {100}
    pixel = torch.arange(256, dtype=torch.float64) / 255
    for channel in range(3):
        share = (
            train.image[:, channel].flatten().bincount(minlength=256) / train.image[:, 0].numel()
        )
        mean = (share * pixel).sum()
        std = (share * (pixel - mean).square()).sum().sqrt()
        assert mean.item() == pytest.approx(CIFAR100_MEAN[channel], abs=1e-4)
        assert std.item() == pytest.approx(CIFAR100_STD[channel], abs=1e-4)
