"""CIFAR-10 and CIFAR-100, from whichever layout lies in a folder."""

import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision import datasets

from rlkd.data.images import ImageReader
from rlkd.data.loaders.memory import ImageSet
from rlkd.data.loaders.stream import in_memory
from rlkd.data.loaders.stream_set import StreamSet
from rlkd.data.sources.folder import list_splits
from rlkd.data.sources.listing import is_hidden
from rlkd.data.sources.parquet import ParquetSource
from rlkd.data.sources.shards import find_shards
from rlkd.data.transforms.resized_crop import Views
from rlkd.errors import UserError

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
NORMALISATION = {10: (CIFAR10_MEAN, CIFAR10_STD), 100: (CIFAR100_MEAN, CIFAR100_STD)}
IMAGE_SIZE = 32

_MAX_IMAGES = 1_000_000
"""Of a split of shards, which is decoded into memory."""

_TEN = """
airplane automobile bird cat deer dog frog horse ship truck
"""
_HUNDRED = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR10 = (*_TEN.split(),)
CIFAR100 = (*_HUNDRED.split(),)
"""The classes, in the order of the official archives, which is alphabetical."""

_ARCHIVES: dict[int, type[datasets.CIFAR10]] = {10: datasets.CIFAR10, 100: datasets.CIFAR100}
_NAMES = {10: CIFAR10, 100: CIFAR100}
_LABELS = {10: ("label",), 100: ("fine_label", "label")}
_VIEWS = Views((IMAGE_SIZE, IMAGE_SIZE), IMAGE_SIZE)


class _ExactReader(ImageReader):
    """Reads images of CIFAR's size, and refuses any other."""

    def read(
        self, content: Callable[[], bytes], place: object
    ) -> UInt8[Tensor, "channels height width"]:
        pixels = super().read(content, place)
        height, width = pixels.shape[1:]
        if (height, width) != (IMAGE_SIZE, IMAGE_SIZE):
            raise UserError(
                f"{place} is {width} x {height} pixels, not {IMAGE_SIZE} x {IMAGE_SIZE}: choose "
                "the data set that it belongs to"
            )
        return pixels


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
        names = [file.name for file in folder.glob("*.parquet") if not is_hidden(file.name)]
        if any("train" in name or "test" in name for name in names):
            train, test = (_read_shards(folder, each, num_classes) for each in ("train", "test"))
            return train, test
    return None


def _read_shards(folder: Path, split: str, num_classes: int) -> ImageSet:
    files = find_shards(folder, f"*{split}*.parquet", "the download")
    source = ParquetSource(
        files, image_columns=("img",), label_columns=_LABELS[num_classes], groups_at_once=4
    )
    if len(source) > _MAX_IMAGES:
        raise UserError(
            f"{folder} has {len(source):,} images of {split}, above {_MAX_IMAGES:,}: choose the "
            "data set that they belong to"
        )
    official = _NAMES[num_classes]
    return in_memory(StreamSet.all_of(source, official, views=_VIEWS, reader=_ExactReader()))


def _read_image_folder(root: Path, num_classes: int) -> tuple[ImageSet, ImageSet]:
    named, sources = list_splits(root / "train", root / "test")
    official = _NAMES[num_classes]
    number = {str(index): index for index in range(num_classes)}
    index_of = number if named[0].isdecimal() else {name: at for at, name in enumerate(official)}
    for name in named:
        if name not in index_of:
            raise UserError(
                f"{root / 'train' / name} is no class of CIFAR-{num_classes}: call the folders "
                f"{official[0]} to {official[-1]}, or 0 to {num_classes - 1}, or use data=folder"
            )
    index = torch.tensor([index_of[name] for name in named])
    train, test = (
        replace(images, target=index[images.target], class_names=official)
        for images in (in_memory(StreamSet.all_of(each, named, views=_VIEWS)) for each in sources)
    )
    return train, test


def _check_classes(root: Path, train: ImageSet) -> None:
    present = int(train.target.bincount().count_nonzero())
    if present != train.num_classes:
        raise UserError(
            f"{root} has training images of {present} of the {train.num_classes} classes: complete "
            "it, or choose the data set that it belongs to"
        )
