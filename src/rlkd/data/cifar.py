"""CIFAR-10 and CIFAR-100, from whichever layout lies in a folder."""

import pickle
import warnings
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torchvision import datasets

from rlkd.data import cifar_names
from rlkd.data.folder import load_folder
from rlkd.data.loaders.memory import ImageSet
from rlkd.data.parquet import read_parquet
from rlkd.data.sources.listing import is_hidden, require_text
from rlkd.errors import UserError

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)
IMAGE_SIZE = 32

_ARCHIVES: dict[int, type[datasets.CIFAR10]] = {10: datasets.CIFAR10, 100: datasets.CIFAR100}
_NAMES = {10: cifar_names.CIFAR10, 100: cifar_names.CIFAR100}
_LABELS = {10: ("label",), 100: ("fine_label", "label")}


def load_cifar(
    root: str | Path, *, num_classes: Literal[10, 100], download: bool = False
) -> tuple[ImageSet, ImageSet]:
    """Read the training and the test images.

    The first of these layouts that `root` holds is read: the official archive as torchvision
    unpacks it, its checksums verified; Parquet in the columns of Hugging Face, in `root` or
    `root/data`; folders `train/<class>/` and `test/<class>/` of images, the classes by their
    official names or numbers.

    Args:
        root: the folder; `~` is the home folder.
        num_classes: which CIFAR.
        download: whether to fetch the official archive where none of the layouts is there.

    Raises:
        UserError: if the images are not there or not whole.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
    """
    root = Path(root).expanduser()
    archive = _ARCHIVES[num_classes]
    splits: tuple[ImageSet, ImageSet] | None = None
    if not (root / archive.base_folder).is_dir():
        splits = _read_parquet_layout(root, num_classes)
        if splits is None and (root / "train").is_dir():
            splits = _read_image_folder(root, num_classes)
        if splits is None and not download:
            raise UserError(
                f"no CIFAR-{num_classes} in {root}: give data.download=true, or a data.root that "
                f"holds {archive.base_folder}/, *train*.parquet with *test*.parquet, or "
                "train/<class>/ with test/<class>/"
            )
    if splits is None:
        if download:
            _download(root, archive)
        splits = _read_archive(root, archive, True), _read_archive(root, archive, False)
    _check_classes(root, splits[0])
    return splits


def _download(root: Path, archive: type[datasets.CIFAR10]) -> None:
    try:
        archive(root, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(
            f"cannot download {archive.url} into {root} ({error}): check the network and that the "
            "folder is writable, or put the data there by hand"
        ) from error


def _read_archive(root: Path, archive: type[datasets.CIFAR10], train: bool) -> ImageSet:
    try:
        with warnings.catch_warnings():
            # The official pickles hold a dtype of Python 2's time, which numpy 2.4 warns about.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            content = archive(root, train=train)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{root / archive.base_folder} is incomplete or corrupt (a checksum differs): delete "
            "it and give data.download=true"
        ) from error
    return ImageSet(
        image=torch.from_numpy(np.ascontiguousarray(content.data.transpose(0, 3, 1, 2))),
        target=torch.tensor(content.targets, dtype=torch.int64),
        class_names=tuple(content.classes),
    )


def _read_parquet_layout(root: Path, num_classes: int) -> tuple[ImageSet, ImageSet] | None:
    for folder in (root, root / "data"):
        train, test = (
            sorted(file for file in folder.glob(name) if not is_hidden(file.name))
            for name in ("*train*.parquet", "*test*.parquet")
        )
        if not train and not test:
            continue
        for file in (*train, *test):
            require_text(str(file))
        if not train or not test:
            absent = "*test*.parquet" if train else "*train*.parquet"
            raise UserError(f"{folder} has no {absent}: complete the download")
        train_images, test_images = (
            read_parquet(
                files,
                label_columns=_LABELS[num_classes],
                class_names=_NAMES[num_classes],
                image_size=IMAGE_SIZE,
            )
            for files in (train, test)
        )
        return train_images, test_images
    return None


def _read_image_folder(root: Path, num_classes: int) -> tuple[ImageSet, ImageSet]:
    train, test = load_folder(root, image_size=IMAGE_SIZE, test="test")
    official = _NAMES[num_classes]
    number = {str(index): index for index in range(num_classes)}
    named = {name: index for index, name in enumerate(official)}
    index_of = number if train.class_names[0].isdecimal() else named
    for name in train.class_names:
        if name not in index_of:
            raise UserError(
                f"{root / 'train' / name} is no class of CIFAR-{num_classes}: call the folders "
                f"{official[0]} to {official[-1]}, or 0 to {num_classes - 1}, or use data=folder"
            )
    index = torch.tensor([index_of[name] for name in train.class_names])
    return (
        ImageSet(train.image, index[train.target], official),
        ImageSet(test.image, index[test.target], official),
    )


def _check_classes(root: Path, train: ImageSet) -> None:
    present = int(train.target.bincount().count_nonzero())
    if present != train.num_classes:
        raise UserError(
            f"{root} has training images of {present} of the {train.num_classes} classes: complete "
            "it, or choose the data set that it belongs to"
        )
