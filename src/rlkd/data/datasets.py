"""The data sets by name: images together with how they are normalised and augmented."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from rlkd import arguments
from rlkd.data import cifar
from rlkd.data import digits as handwritten
from rlkd.data.cifar import load_cifar
from rlkd.data.folder import load_folder
from rlkd.data.images import ImageReader
from rlkd.data.loaders.memory import ImageSet
from rlkd.data.loaders.normaliser import per_channel
from rlkd.data.loaders.stream_set import StreamSet
from rlkd.data.sources.unreadable import Unreadable
from rlkd.data.splits import limited
from rlkd.data.transforms.resized_crop import fitted, frame, pixel_size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)
"""The means of those three, for images that are read as grey."""

Images = ImageSet | StreamSet
"""Labelled images, in memory or decoded when they are needed."""


@dataclass(frozen=True)
class Dataset:
    """Images to train and to test on, and what a loader of them needs to know."""

    name: str
    train: Images
    test: Images
    mean: tuple[float, ...]
    """Mean of each channel, with pixels in [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each channel, in the same unit."""
    crop_padding: int
    """Pixels added on each side before a random crop in training; 0 for no such crop."""
    flip: bool
    """Whether training mirrors images at random."""
    resize: int | None = None
    """See `fitted`."""
    unreadable: Unreadable | None = None
    """Counts the images that cannot be decoded; None where all of them were decoded at once."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return self.train.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called, in the order of their indices."""
        return self.train.class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image as networks see it."""
        return self.train.shape

    def evaluated(
        self, image: UInt8[Tensor, "channels height width"]
    ) -> UInt8[Tensor, "channels high wide"]:
        """Return what an evaluation sees of an image of any size."""
        return fitted(image, self.shape[1:], self.resize)

    @property
    def evaluation(self) -> str:
        """How an image comes to its size in an evaluation, in words."""
        _, height, width = self.shape
        if height == width:
            return f"the shorter side resized to {self.resize or height}, the middle cut out"
        high, wide = frame(self.shape[1:], self.resize)
        return f"resized until it just covers {high} x {wide}, the middle cut out"


def own_normalisation(
    mean: Any, std: Any, default: tuple[Sequence[float], Sequence[float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation that `data.mean` and `data.std` give.

    Raises:
        UserError: if they are not one number a channel; see `per_channel`.
    """
    return per_channel(mean, default[0], "data.mean"), per_channel(std, default[1], "data.std")


def imagenet_normalisation(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return ImageNet's mean and standard deviation, of RGB or of grey."""
    return (GREY_MEAN, GREY_STD) if channels == 1 else (IMAGENET_MEAN, IMAGENET_STD)


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
    own = own_normalisation(mean, std, (handwritten.MEAN, handwritten.STD))
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
) -> Dataset:
    """Return CIFAR-10, cropped with 4 pixels of padding and flipped in training.

    Args:
        root: folder of any layout that `load_cifar` reads.
        download: whether to fetch it where it is missing.
        limit: how many training images to keep, stratified, always the same; None for all.
        mean: what pixels in [0, 1] are normalised by, a number a channel; None for CIFAR-10's.
        std: the same.
    """
    arguments.flag("data.download", download)
    arguments.count("data.limit", limit, optional=True)
    own = own_normalisation(mean, std, (cifar.CIFAR10_MEAN, cifar.CIFAR10_STD))
    train, test = load_cifar(root, num_classes=10, download=download)
    return Dataset(
        name="cifar10",
        train=limited(train, limit),
        test=test,
        mean=own[0],
        std=own[1],
        crop_padding=4,
        flip=True,
    )


def cifar100(
    *,
    root: str | Path,
    download: bool = False,
    limit: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Dataset:
    """Return CIFAR-100, cropped with 4 pixels of padding and flipped in training.

    Args:
        root: folder of any layout that `load_cifar` reads.
        download: whether to fetch it where it is missing.
        limit: how many training images to keep, stratified, always the same; None for all.
        mean: what pixels in [0, 1] are normalised by, a number a channel; None for CIFAR-100's.
        std: the same.
    """
    arguments.flag("data.download", download)
    arguments.count("data.limit", limit, optional=True)
    own = own_normalisation(mean, std, (cifar.CIFAR100_MEAN, cifar.CIFAR100_STD))
    train, test = load_cifar(root, num_classes=100, download=download)
    return Dataset(
        name="cifar100",
        train=limited(train, limit),
        test=test,
        mean=own[0],
        std=own[1],
        crop_padding=4,
        flip=True,
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
    flip: bool = True,
) -> Dataset:
    """Return images of one's own.

    Args:
        root: folder with one subfolder a split and in it one a class.
        image_size: height and width in memory, in pixels; one number for both, or both.
        channels: 3 for RGB, 1 for grey.
        mean: what pixels in [0, 1] are normalised by, a number a channel; None for ImageNet's.
        std: the same.
        train: subfolder of the training images.
        test: subfolder of the test images; None for `test`, or else `val`.
        test_fraction: share of the training images to test on where there is no test folder.
        limit: how many training images to read, stratified, always the same; None for all.
        memory_limit_gib: the most memory that the images may take, in GiB.
        flip: whether training mirrors images at random; false where left and right matter.
    """
    arguments.flag("data.flip", flip)
    size, reader = pixel_size(image_size, "data.image_size"), ImageReader(channels)
    own = own_normalisation(mean, std, imagenet_normalisation(channels))
    train_images, test_images = load_folder(
        root,
        image_size=size,
        reader=reader,
        train=train,
        test=test,
        test_fraction=test_fraction,
        limit=limit,
        memory_limit_gib=memory_limit_gib,
    )
    return Dataset(
        name="folder",
        train=train_images,
        test=test_images,
        mean=own[0],
        std=own[1],
        crop_padding=min(size) // 8,
        flip=flip,
    )
