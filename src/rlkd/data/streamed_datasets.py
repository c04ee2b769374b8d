"""Data sets too large for memory, by their layout: image folders, Parquet and WebDataset shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from rlkd import arguments
from rlkd.data.datasets import Dataset, imagenet_normalisation, own_normalisation
from rlkd.data.folder import check_same_classes, class_folders
from rlkd.data.images import ImageReader
from rlkd.data.loaders.stream_set import Reading, StreamSet
from rlkd.data.sources.folder import Source, list_folder
from rlkd.data.sources.parquet import ParquetSource
from rlkd.data.sources.shards import find_shards, given_names
from rlkd.data.sources.tar import TarSource
from rlkd.data.sources.unreadable import Unreadable
from rlkd.data.splits import limited
from rlkd.data.transforms.resized_crop import Views, pixel_size
from rlkd.errors import UserError

_Labelled = tuple[Source, Int64[Tensor, " _"]]


def folder(*, root: str | Path, train: str = "train", test: str = "val", **options: Any) -> Dataset:
    """Return images in ImageNet's layout: `root/train/<class>/` and `root/val/<class>/`.

    Classes are numbered by their sorted names, as torchvision's image folder does.

    Args:
        root: the folder; `~` is the home folder.
        train: subfolder of the training images.
        test: subfolder of the test images.
        **options: see `streamed`.

    Raises:
        UserError: if a folder is missing or empty, or a class is in one split alone.
    """
    root = Path(root).expanduser()
    class_names = class_folders(root / train)
    check_same_classes(root / train, class_names, root / test)
    sources = [list_folder(root / split, class_names) for split in (train, test)]
    return streamed(sources[0], sources[1], class_names, name="folder", **options)


def parquet(
    *,
    root: str | Path,
    train: str | Sequence[str] = "**/*train*.parquet",
    test: str | Sequence[str] = "**/*test*.parquet",
    class_names: Any = None,
    image_column: str | None = None,
    label_column: str | None = None,
    groups_at_once: int = 16,
    **options: Any,
) -> Dataset:
    """Return images in Parquet shards with the columns of Hugging Face.

    Args:
        root: the folder of the shards; `~` is the home folder.
        train: file names of the training shards, with `*` and `?`, or several of these.
        test: the same of the test shards.
        class_names: see `given_names`; None for those that the shards tell.
        image_column: name of the column of images; None for `image` or `img`.
        label_column: name of the column of labels; None for `label` or `fine_label`.
        groups_at_once: row groups that are mixed, and held by each worker, at a time.
        **options: see `streamed`.

    Raises:
        UserError: if shards are missing, listed twice, broken or without labels, name other
            classes than one another or than `class_names`, or nothing names the classes.
    """
    _check_groups(groups_at_once)
    read = [
        ParquetSource(
            find_shards(root, patterns, key),
            image_column=image_column,
            label_column=label_column,
            groups_at_once=groups_at_once,
        )
        for patterns, key in ((train, "data.train"), (test, "data.test"))
    ]
    _check_labelled(read[0], "data.train='**/*train*.parquet'")
    _check_labelled(read[1], "data.test='**/*validation*.parquet'")
    names = _parquet_names(read[0], read[1], given_names(class_names))
    sources = [(each, each.target) for each in read]
    return streamed(sources[0], sources[1], names, name="parquet", **options)


def _check_labelled(source: ParquetSource, usual: str) -> None:
    """Refuse a split without labels, which Hugging Face writes as -1."""
    bare = (source.target == -1).nonzero()
    if len(bare):
        raise UserError(
            f"{source.place(int(bare[0]))} has no label (-1): give a labelled split, such as "
            f"{usual}"
        )


def _parquet_names(
    train: ParquetSource, test: ParquetSource, given: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return what the classes are called: as given, or else as both splits tell."""
    told = train.class_names
    one_tells = told is None or test.class_names is None
    if told != test.class_names and not (given is not None and one_tells):
        raise UserError(
            f"{train.files[0]} and {test.files[0]} name different classes: take shards of one set"
        )
    told = told or test.class_names
    names = given or told
    if names is None:
        raise UserError(
            f"{train.files[0]} does not name its classes: give data.class_names, a file of one "
            "name a line or their number"
        )
    if told is not None and len(told) != len(names):
        raise UserError(
            f"data.class_names gives {len(names)} classes, the shards {len(told)}: name each class"
        )
    if told is not None and told != names and set(told) == set(names):
        row = next(row for row, name in enumerate(told) if name != names[row])
        raise UserError(
            f"data.class_names has another order than the shards: class {row} is {names[row]}, of "
            f"the shards {told[row]}: name the classes in the order of their labels"
        )
    return names


def webdataset(
    *,
    root: str | Path,
    train: str | Sequence[str] = "**/*train*.tar",
    test: str | Sequence[str] = "**/*val*.tar",
    class_names: Any = None,
    label_key: str = "label",
    groups_at_once: int = 16,
    **options: Any,
) -> Dataset:
    """Return images in tar shards as WebDataset lays them out.

    Args:
        root: the folder of the shards; `~` is the home folder.
        train: file names of the training shards, with `*` and `?`, or several of these.
        test: the same of the test shards.
        class_names: see `given_names`; these shards do not tell.
        label_key: the entry of a sample's json file that holds its label, where it has no cls file.
        groups_at_once: shards that are mixed at a time.
        **options: see `streamed`.

    Raises:
        UserError: if shards are missing, listed twice or broken, or nothing names the classes.
    """
    _check_groups(groups_at_once)
    names = given_names(class_names)
    if names is None:
        raise UserError(
            "tar shards do not name their classes: give data.class_names, a file of one name a "
            "line, imagenet, or their number"
        )
    read = [
        TarSource(
            find_shards(root, patterns, key),
            names,
            label_key=label_key,
            groups_at_once=groups_at_once,
        )
        for patterns, key in ((train, "data.train"), (test, "data.test"))
    ]
    sources = [(each, each.target) for each in read]
    return streamed(sources[0], sources[1], names, name="webdataset", **options)


def streamed(
    train: _Labelled,
    test: _Labelled,
    class_names: tuple[str, ...],
    *,
    name: str,
    image_size: int | Sequence[int] = 224,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int = 256,
    smallest_area: float = 0.08,
    flip: bool = True,
    limit: int | None = None,
    workers: int = 4,
    prefetch: int = 2,
    unreadable: str = "stop",
) -> Dataset:
    """Return images that are decoded when they are needed.

    Args:
        train: the training images, and the class of each.
        test: the same to test on.
        class_names: what the classes are called, in the order of their labels.
        name: of the layout.
        image_size: height and width of what networks see, in pixels; one number for both, or both.
        channels: 3 for RGB, 1 for grey.
        mean: what pixels in [0, 1] are normalised by, a number a channel; None for ImageNet's.
        std: the same.
        resize: the shorter side of what test images are resized to cover, before the middle is cut
            out; see `fitted`.
        smallest_area: of a random crop in training, as a share of the image's.
        flip: whether training mirrors images at random; false where left and right matter.
        limit: how many training images to keep, stratified, always the same; None for all.
        workers: processes that decode, on each rank, one a processor at most; 0 for none but its
            own.
        prefetch: batches that each of them makes ahead.
        unreadable: `stop` at an image that cannot be decoded, or `skip` it and count.

    Raises:
        UserError: if an option is out of its range, a split is empty, or a label is no class.
    """
    for key, (_, target) in (("data.train", train), ("data.test", test)):
        if not len(target):
            raise UserError(f"what {key} names has no images: give files that hold some")
    arguments.count("data.limit", limit, optional=True)
    views = Views(pixel_size(image_size, "data.image_size"), resize, smallest_area, flip)
    reading = Reading(workers, prefetch, Unreadable(unreadable))
    reader = ImageReader(channels)
    own = own_normalisation(mean, std, imagenet_normalisation(channels))
    sets = [
        StreamSet(source, torch.arange(len(target)), target, class_names, views, reading, reader)
        for source, target in (train, test)
    ]
    return Dataset(
        name=name,
        train=limited(sets[0], limit),
        test=sets[1],
        mean=own[0],
        std=own[1],
        crop_padding=0,
        flip=flip,
        resize=resize,
        unreadable=reading.unreadable,
    )


def _check_groups(groups_at_once: int) -> None:
    arguments.count("data.groups_at_once", groups_at_once)
