"""Images to train and to test on, and what loaders and networks need to know of them."""

from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from rlkd.data.loaders.memory import Flip, ImageSet
from rlkd.data.loaders.stream_set import StreamSet
from rlkd.data.sources.unreadable import Unreadable
from rlkd.data.transforms.resized_crop import fitted, frame

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
    flip: Flip
    """Whether training mirrors images, at random or every other epoch."""
    resize: int | None = None
    """See `fitted`."""
    unreadable: Unreadable | None = None
    """Counts the images that cannot be decoded; None for data that are no files of images."""

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
