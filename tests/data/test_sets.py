from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from rlkd.data import Dataset, MemoryLoader


def test_digits_are_cropped_by_one_pixel_and_never_mirrored() -> None:
    dataset: Dataset = instantiate({"_target_": "rlkd.data.datasets.digits"})
    assert (dataset.name, dataset.num_classes) == ("digits", 10)
    assert (dataset.crop_padding, dataset.flip) == (1, False)
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)


def test_a_limit_shortens_the_training_images_alone_and_evenly() -> None:
    dataset: Dataset = instantiate({"_target_": "rlkd.data.datasets.digits", "limit": 100})
    again: Dataset = instantiate({"_target_": "rlkd.data.datasets.digits", "limit": 100})
    assert set(dataset.train.target.bincount().tolist()) <= {9, 10, 11}
    assert (len(dataset.train), len(dataset.test)) == (100, 360)
    assert torch.equal(dataset.train.image, again.train.image)


def test_either_cifar_has_its_own_classes_and_constants(
    tmp_path: Path, write_parquet: Callable[..., Path], pixels_of: Callable[..., Tensor]
) -> None:
    found: dict[int, Dataset] = {}
    for count in (10, 100):
        root = tmp_path / str(count)
        for split in ("train", "test"):
            write_parquet(root / f"{split}.parquet", pixels_of(count), list(range(count)))
        target = f"rlkd.data.datasets.cifar{count}"
        found[count] = instantiate({"_target_": target, "root": str(root), "limit": 5})
        assert found[count].num_classes == count
        assert (found[count].crop_padding, found[count].flip) == (4, True)
        assert len(found[count].train) == 5
    assert found[10].mean == (0.4914, 0.4822, 0.4465)
    assert found[10].std == (0.2470, 0.2435, 0.2616)
    assert found[100].mean == (0.5071, 0.4865, 0.4409)
    assert found[100].std == (0.2673, 0.2564, 0.2762)


def test_a_folder_fills_a_loader_with_imagenets_normalisation(
    tmp_path: Path, write_png: Callable[..., None]
) -> None:
    for name in ("a", "b"):
        for row in range(4):
            write_png(tmp_path / "train" / name / f"{row}.png", torch.full((3, 16, 16), 51).byte())
    options: dict[str, Any] = {"root": str(tmp_path), "image_size": 16, "test_fraction": 0.25}
    dataset: Dataset = instantiate({"_target_": "rlkd.data.datasets.folder"} | options)
    assert (len(dataset.train), len(dataset.test)) == (6, 2)
    assert (dataset.crop_padding, dataset.flip) == (2, True)
    loader = MemoryLoader(
        dataset.test, batch_size=2, mean=dataset.mean, std=dataset.std, shuffle=False
    )
    (batch,) = list(loader)
    # 51 / 255 = 0.2; ImageNet's red has mean 0.485 and standard deviation 0.229.
    expected = torch.full((2, 16, 16), (0.2 - 0.485) / 0.229)
    torch.testing.assert_close(batch.image[:, 0], expected, rtol=1e-5, atol=1e-6)
