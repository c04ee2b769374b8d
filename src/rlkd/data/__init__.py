"""Labelled images in memory or streamed, the data sets that are made of them, and their splits.

The named data sets with all their options are the functions of `rlkd.data.datasets`.
"""

from rlkd.data.cifar import load_cifar
from rlkd.data.dataset import Dataset, Images
from rlkd.data.digits import load_digits
from rlkd.data.loaders.loader import BatchLoader
from rlkd.data.loaders.memory import ImageSet, MemoryLoader
from rlkd.data.loaders.stream import StreamLoader, first_readable, in_memory
from rlkd.data.loaders.stream_set import StreamSet
from rlkd.data.splits import hold_out

__all__ = [
    "BatchLoader",
    "Dataset",
    "ImageSet",
    "Images",
    "MemoryLoader",
    "StreamLoader",
    "StreamSet",
    "first_readable",
    "hold_out",
    "in_memory",
    "load_cifar",
    "load_digits",
]
