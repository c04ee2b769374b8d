"""How a run's images are made ready: left in its folder, for predictions without its data."""

import torch

from rlkd.data import ImageSet
from rlkd.data.dataset import Dataset
from rlkd.data.images import ImageReader
from rlkd.data.loaders.normaliser import per_channel
from rlkd.data.transforms.resized_crop import Views, pixel_size
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
        kept = {
            "name": str(dataset.name),
            "shape": list(map(int, dataset.shape)),
            "mean": list(map(float, dataset.mean)),
            "std": list(map(float, dataset.std)),
            "resize": None if dataset.resize is None else int(dataset.resize),
        }
        write_object(path, kept)


def kept_preprocessing(folder: RunFolder) -> Dataset | None:
    """Return the data of a run without their images, as its folder describes them, if it does.

    Raises:
        UserError: if the description is broken.
    """
    path, names = folder.path / PREPROCESSING, folder.path / FILE
    if not (path.is_file() and names.is_file()):
        return None
    remedy = "remove it, and give the data"
    held = read_object(path, remedy)
    try:
        channels, *sides = held["shape"]
        ImageReader(channels)
        views = Views(pixel_size(sides, "shape"), held["resize"] or min(sides))
        image = torch.empty(0, channels, *views.size, dtype=torch.uint8)
        none = ImageSet(image, torch.empty(0, dtype=torch.int64), tuple(names_in(names, names)))
        return Dataset(
            name=str(held["name"]),
            train=none,
            test=none,
            mean=per_channel(list(held["mean"]), channels * (0.0,), "mean"),
            std=per_channel(list(held["std"]), channels * (1.0,), "std"),
            crop_padding=0,
            flip=False,
            resize=held["resize"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} describes no images ({one_line(error)}): {remedy}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
