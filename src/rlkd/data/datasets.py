"""The data sets by name: images together with how they are normalised and augmented.

Small ones are held in memory; `imagenet`, `parquet` and `webdataset` are decoded when needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rlkd import arguments
from rlkd.data import cifar
from rlkd.data import digits as handwritten
from rlkd.data.dataset import Dataset
from rlkd.data.images import ImageReader
from rlkd.data.loaders.memory import Flip, check_flip
from rlkd.data.loaders.normaliser import per_channel
from rlkd.data.loaders.stream import in_memory
from rlkd.data.loaders.stream_set import Reading, StreamSet
from rlkd.data.sources.folder import Source, class_folders, list_splits
from rlkd.data.sources.listing import is_hidden
from rlkd.data.sources.parquet import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    ParquetSource,
    agreed_names,
)
from rlkd.data.sources.shards import find_shards, given_names
from rlkd.data.sources.tar import TarSource
from rlkd.data.sources.unreadable import Unreadable
from rlkd.data.splits import hold_out, limited
from rlkd.data.transforms.resized_crop import Views, pixel_size
from rlkd.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_IMAGENET = {3: (IMAGENET_MEAN, IMAGENET_STD), 1: ((0.449,), (0.226,))}
"""By channels: grey has the means of the three colours."""
_NAMED = 4
"""Folders that a message names at most."""


def _normalisation(
    mean: Any, std: Any, default: tuple[Sequence[float], Sequence[float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return per_channel(mean, default[0], "data.mean"), per_channel(std, default[1], "data.std")


def digits(
    *,
    limit: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Dataset:
    """Return scikit-learn's digits, which need no download.

    Args:
        limit: how many training images to keep, stratified, always the same; None for all.
        mean: what pixels in [0, 1] are normalised by; None for the digits' own.
        std: the same.
    """
    arguments.count("data.limit", limit, optional=True)
    own = _normalisation(mean, std, (handwritten.MEAN, handwritten.STD))
    train, test = handwritten.load_digits()
    return Dataset(
        name="digits",
        train=limited(train, limit),
        test=test,
        mean=own[0],
        std=own[1],
        crop_padding=1,
        flip=False,
    )


def cifar10(
    *,
    root: str | Path,
    download: bool = False,
    limit: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    flip: Flip = True,
) -> Dataset:
    """Return CIFAR-10, cropped with 4 pixels of padding and flipped in training.

    Args:
        root: folder of any layout that `load_cifar` reads.
        download: whether to fetch it where it is missing.
        limit: how many training images to keep, stratified, always the same; None for all.
        mean: what pixels in [0, 1] are normalised by, a number a channel; None for CIFAR's own.
        std: the same.
        flip: whether training mirrors images, at random or every other epoch; see `MemoryLoader`.
    """
    return _cifar(10, root, download, limit, (mean, std), flip)


def cifar100(
    *,
    root: str | Path,
    download: bool = False,
    limit: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    flip: Flip = True,
) -> Dataset:
    """Return CIFAR-100; see `cifar10`."""
    return _cifar(100, root, download, limit, (mean, std), flip)


def _cifar(
    classes: Literal[10, 100],
    root: str | Path,
    download: bool,
    limit: int | None,
    given: Any,
    flip: Flip,
) -> Dataset:
    check_flip(flip)
    arguments.flag("data.download", download)
    arguments.count("data.limit", limit, optional=True)
    own = _normalisation(given[0], given[1], cifar.NORMALISATION[classes])
    train, test = cifar.load_cifar(root, num_classes=classes, download=download)
    return Dataset(
        name=f"cifar{classes}",
        train=limited(train, limit),
        test=test,
        mean=own[0],
        std=own[1],
        crop_padding=4,
        flip=flip,
    )


def folder(
    *,
    root: str | Path,
    image_size: int | Sequence[int],
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    train: str = "train",
    test: str | None = None,
    test_fraction: float | None = None,
    limit: int | None = None,
    memory_limit_gib: float = 8.0,
    flip: Flip = True,
    unreadable: str = "stop",
) -> Dataset:
    """Return images of one's own, decoded once into memory.

    Images are resized until they just cover `image_size`, and the middle is kept. Classes are
    numbered by their sorted names, as torchvision's image folder does.

    Args:
        root: folder with one subfolder a split and in it one a class; `~` is the home folder.
        image_size: height and width in memory, in pixels; one number for both, or both.
        channels: 3 for RGB, 1 for grey.
        mean: what pixels in [0, 1] are normalised by, a number a channel; None for ImageNet's.
        std: the same.
        train: subfolder of the training images.
        test: subfolder of the test images; None for `test`, or else `val`.
        test_fraction: share of the training images to test on, above 0 and below 1, where there is
            no test folder; the choice is stratified and always the same.
        limit: how many training images to read, stratified, always the same; None for all.
        memory_limit_gib: the most memory that the images may take, in GiB.
        flip: as for `cifar10`; false where left and right matter.
        unreadable: `stop` where images cannot be decoded, or `skip` them and count.

    Raises:
        UserError: if a folder is missing or empty, the classes differ, an image is corrupt and none
            is to be skipped, an option is out of its range, or the images need more memory.
    """
    size, reader = pixel_size(image_size, "data.image_size"), ImageReader(channels)
    own = _normalisation(mean, std, _IMAGENET[channels])
    arguments.number("data.test_fraction", test_fraction, above=0, below=1, optional=True)
    arguments.number("data.memory_limit_gib", memory_limit_gib, above=0)
    arguments.count("data.limit", limit, optional=True)
    check_flip(flip)
    root, reading = Path(root).expanduser(), Reading(unreadable=Unreadable(unreadable))
    _require_split(
        root,
        train,
        of_classes="; where its folders are the classes themselves, give "
        "data.train=. data.test_fraction=0.2",
    )
    class_folders(root / train)  # which is named before what is to be tested on
    names, sources = list_splits(root / train, *_test_folder(root, test, test_fraction))
    how: dict[str, Any] = {"views": Views(size, min(size)), "reader": reader, "reading": reading}
    listed = [StreamSet.all_of(each, names, **how) for each in sources]
    images, held = listed if test_fraction is None else _split(listed[0], test_fraction)
    parts = limited(images, limit), held
    count = sum(map(len, parts))
    needed = count * channels * size[0] * size[1] / 2**30
    if needed > memory_limit_gib:
        raise UserError(
            f"{count} images of {size[0]} x {size[1]} need {needed:.3g} GiB of memory, above "
            f"data.memory_limit_gib={memory_limit_gib:g}: raise it, or lower data.image_size or "
            "data.limit"
        )
    return Dataset(
        name="folder",
        train=in_memory(parts[0]),
        test=in_memory(parts[1]),
        mean=own[0],
        std=own[1],
        crop_padding=min(size) // 8,
        flip=flip,
        unreadable=reading.unreadable,
    )


def _require_split(root: Path, name: str, *, of_classes: str = "") -> None:
    """Refuse a split that a root does not have.

    Args:
        root: of the data; its own absence is refused elsewhere.
        name: of the split's folder.
        of_classes: what to do where the root's folders hold images alone.

    Raises:
        UserError: naming the folders that are there.
    """
    if not root.is_dir() or (root / name).is_dir():
        return
    found = [each for each in sorted(root.glob("*/")) if not is_hidden(each.name)]
    hint = of_classes if found else ""
    if any(any(each.glob("*/")) for each in found):
        names = ", ".join(each.name for each in found[:_NAMED])
        hint = f"; for folders of other names ({names}) give data.train=NAME data.test=NAME"
    raise UserError(
        f"no folder {root / name}: put the images into {root / name}/<class>/, or fix data.root"
        f"{hint}"
    )


def _test_folder(root: Path, test: str | None, test_fraction: float | None) -> list[Path]:
    names = ("test", "val") if test is None else (test,)
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None and test_fraction is None:
        raise UserError(
            f"{root} has no folder {' or '.join(names)}: add it, or give data.test=NAME, or "
            "data.test_fraction=0.1 to test on a tenth of the training images"
        )
    if found is not None and test_fraction is not None:
        raise UserError(
            f"data.test_fraction={test_fraction} is given but {found} exists: leave one out"
        )
    return [] if found is None else [found]


def _split(images: StreamSet, test_fraction: float) -> tuple[StreamSet, StreamSet]:
    size = round(test_fraction * len(images))
    if not 0 < size < len(images):
        raise UserError(
            f"data.test_fraction={test_fraction} of {len(images)} images leaves none to "
            "train or to test on: give a share above 0 and below 1"
        )
    return hold_out(images, size, seed=0)


def imagenet(
    *, root: str | Path, train: str = "train", test: str = "val", **options: Any
) -> Dataset:
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
    for split in (train, test):
        _require_split(root, split)
    class_names, sources = list_splits(root / train, root / test)
    return streamed(sources, class_names, name="folder", **options)


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
        class_names: see `given_names`; None for those that the shards name.
        image_column: name of the column of images; None for `image` or `img`.
        label_column: name of the column of labels; None for `label` or `fine_label`.
        groups_at_once: row groups that are mixed, and held by each worker, at a time.
        **options: see `streamed`.

    Raises:
        UserError: if shards are missing, listed twice, broken or without labels, name other
            classes than one another or than `class_names`, or nothing names the classes.
    """
    arguments.count("data.groups_at_once", groups_at_once)
    sources = [
        ParquetSource(
            find_shards(root, patterns, key),
            image_columns=IMAGE_COLUMNS if image_column is None else (image_column,),
            label_columns=LABEL_COLUMNS if label_column is None else (label_column,),
            groups_at_once=groups_at_once,
        )
        for patterns, key in ((train, "data.train"), (test, "data.test"))
    ]
    sources[0].require_labels("data.train='**/*train*.parquet'")
    sources[1].require_labels("data.test='**/*validation*.parquet'")
    names = agreed_names(sources[0], sources[1], given_names(class_names))
    return streamed(sources, names, name="parquet", **options)


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
        class_names: see `given_names`; these shards name none.
        label_key: the entry of a sample's json file that holds its label, where it has no cls file.
        groups_at_once: shards that are mixed at a time.
        **options: see `streamed`.

    Raises:
        UserError: if shards are missing, listed twice or broken, or nothing names the classes.
    """
    arguments.count("data.groups_at_once", groups_at_once)
    names = given_names(class_names)
    if names is None:
        raise UserError(
            "tar shards do not name their classes: give data.class_names, a file of one name a "
            "line, imagenet, or their number"
        )
    sources = [
        TarSource(
            find_shards(root, patterns, key),
            names,
            label_key=label_key,
            groups_at_once=groups_at_once,
        )
        for patterns, key in ((train, "data.train"), (test, "data.test"))
    ]
    return streamed(sources, names, name="webdataset", **options)


def streamed(
    sources: Sequence[Source],
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
    views: int | None = None,
    limit: int | None = None,
    workers: int = 4,
    prefetch: int = 2,
    unreadable: str = "stop",
) -> Dataset:
    """Return images that are decoded when they are needed.

    Args:
        sources: the training images, and those to test on.
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
        views: of each image that training draws from, the same in all runs; None for new ones.
        limit: how many training images to keep, stratified, always the same; None for all.
        workers: processes that decode, on each rank, one a processor at most; 0 for none but its
            own.
        prefetch: batches that each of them makes ahead.
        unreadable: `stop` at an image that cannot be decoded, or `skip` it and count.

    Raises:
        UserError: if an option is out of its range, a split is empty, or a label is no class.
    """
    for key, source in zip(("data.train", "data.test"), sources, strict=True):
        if not len(source):
            raise UserError(f"what {key} names has no images: give files that hold some")
    arguments.count("data.limit", limit, optional=True)
    crops = Views(pixel_size(image_size, "data.image_size"), resize, smallest_area, flip)
    reading = Reading(workers, prefetch, Unreadable(unreadable))
    options: dict[str, Any] = {"reading": reading, "reader": ImageReader(channels)}
    own = _normalisation(mean, std, _IMAGENET[channels])
    options |= {"views": crops, "view_count": views}
    sets = [StreamSet.all_of(each, class_names, **options) for each in sources]
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
