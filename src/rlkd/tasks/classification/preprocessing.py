"""How a run's images are made ready: left in its folder, for predictions without its data."""

import torch

from rlkd.data import ImageSet
from rlkd.data.dataset import Dataset
from rlkd.data.loaders.normaliser import per_channel
from rlkd.engine.class_names import FILE, names_in
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError, one_line
from rlkd.text_files import read_object, write_object

PREPROCESSING = "preprocessing.json"
"""In a run's folder: shape, mean and standard deviation of what a network sees."""


def keep_preprocessing(folder: RunFolder, dataset: Dataset) -> None:
    """Leave in a run's folder how images are made ready; not where data do so by their own code."""
    path = folder.path / PREPROCESSING
    if type(dataset) is Dataset and not path.is_file():
        keys = ("name", "shape", "mean", "std", "resize")
        write_object(path, {key: getattr(dataset, key) for key in keys})


def kept_preprocessing(folder: RunFolder) -> Dataset | None:
    """Return the data of a run without their images, as its folder describes them, if it does.

    Raises:
        UserError: if the description is broken.
    """
    path = folder.path / PREPROCESSING
    if not path.is_file():
        return None
    remedy = "remove it, and give the data"
    held = read_object(path, remedy)
    names = tuple(names_in(folder.path / FILE, folder.student))
    try:
        image = torch.empty(0, *held["shape"], dtype=torch.uint8)
        none = ImageSet(image, torch.empty(0, dtype=torch.int64), names)
        return Dataset(
            name=held["name"],
            train=none,
            test=none,
            mean=per_channel(held["mean"], image.shape[1] * (0.0,), "mean"),
            std=per_channel(held["std"], image.shape[1] * (1.0,), "std"),
            crop_padding=0,
            flip=False,
            resize=held["resize"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError, UserError) as error:
        raise UserError(f"{path} describes no images ({one_line(error)}): {remedy}") from None
