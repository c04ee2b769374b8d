"""Labelled images in memory or streamed, the data sets that are made of them, and their splits.

The named data sets with all their options are the functions of `rlkd.data.sets`, and those too
large for memory of `rlkd.data.streamed`.
"""

from rlkd.data.cifar import load_cifar
from rlkd.data.digits import load_digits
from rlkd.data.folder import load_folder
from rlkd.data.loader import BatchLoader
from rlkd.data.memory import ImageSet, MemoryLoader
from rlkd.data.sets import Dataset, Images
from rlkd.data.splits import hold_out
from rlkd.data.stream import StreamLoader, first_readable, in_memory
from rlkd.data.stream_set import StreamSet

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
    "load_folder",
]
