"""Images in memory, the data sets that fill it, and their splits.

The named data sets with all their options are the functions of `rlkd.data.sets`.
"""

from rlkd.data.cifar import load_cifar
from rlkd.data.digits import load_digits
from rlkd.data.folder import load_folder
from rlkd.data.memory import ImageSet, MemoryLoader
from rlkd.data.sets import Dataset
from rlkd.data.splits import hold_out

__all__ = [
    "Dataset",
    "ImageSet",
    "MemoryLoader",
    "hold_out",
    "load_cifar",
    "load_digits",
    "load_folder",
]
