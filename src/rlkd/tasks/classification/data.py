"""The images of a classification run, by their part in it, and the loaders over them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from rlkd import distributed
from rlkd.config.options import TrainerOptions, probe_options
from rlkd.data import (
    BatchLoader,
    Images,
    ImageSet,
    MemoryLoader,
    StreamLoader,
    first_readable,
    hold_out,
    in_memory,
)
from rlkd.data.dataset import Dataset
from rlkd.data.fingerprint import fingerprint
from rlkd.data.loaders.batch_plan import ALONE, leaves_one
from rlkd.distributed import Rank
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.shared_data import load
from rlkd.errors import UserError
from rlkd.text_files import read_object, write_object
from rlkd.types import Batch

UNREADABLE = "unreadable.json"
"""In a run's folder: the images that could not be decoded and were skipped."""

_AT_ONCE, _STREAMED_AT_ONCE = 500, 100
"""Images a batch where nothing is trained, in memory and streamed."""


@dataclass(frozen=True)
class Sets:
    """The images of a run, by their part in it."""

    dataset: Dataset
    train: Images
    """What the student trains on: all but what is held out."""
    test: Images
    validation: Images | None
    probe: ImageSet | None
    """Decoded once, as in evaluation."""


def load_dataset(config: DictConfig) -> Dataset:
    """Load the data; those that are streamed are listed, no more.

    Raises:
        UserError: if they are missing or broken, or are no set of labelled images.
    """
    dataset = load(config)
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"data={config.chosen.data} has no label for each image: task=classification needs "
            "data=folder, say, and objects in boxes task=detection"
        )
    if dataset.num_classes < 2:
        raise UserError(
            f"data={config.chosen.data} has one class, {dataset.class_names[0]}: give images of "
            "two or more"
        )
    return dataset


def load_sets(config: DictConfig, options: TrainerOptions) -> Sets:
    """Load the data and hold out what is not to be trained on.

    Raises:
        UserError: if the data are missing or broken, or too much is held out.
    """
    probe_size = probe_options(config.probe).size
    dataset = load_dataset(config)
    train, validation, probe = dataset.train, None, None
    if options.validation_size:
        train, validation = _held_out(train, options.validation_size, "trainer.validation_size", 0)
    if probe_size:
        train, held = _held_out(train, probe_size, "probe.size", 1)
        probe = held if isinstance(held, ImageSet) else in_memory(held)
    return Sets(dataset, train, dataset.test, validation, probe)


def _held_out(images: Images, size: int, key: str, seed: int) -> tuple[Images, Images]:
    try:
        return hold_out(images, size, seed=seed)
    except UserError as error:
        raise UserError(f"{key}={size}: {error}") from None


def train_loader(
    sets: Sets, options: TrainerOptions, *, seed: int, strong_view: bool = False
) -> BatchLoader:
    """Make the loader of augmented, shuffled training batches, of this rank's part in them.

    A last batch that would have one image a rank and pass is left out.
    """
    part, images, dataset = distributed.this_rank(), sets.train, sets.dataset
    shared: dict[str, Any] = {
        "batch_size": options.batch_size,
        "mean": dataset.mean,
        "std": dataset.std,
        "shuffle": True,
        "seed": seed,
        "drop_last": leaves_one(
            len(images), options.batch_size, part.world_size * options.accumulate
        ),
        "strong_view": strong_view,
        "memory_format": options.memory_format,
        "device": options.device,
        "part": part,
        "passes": options.accumulate,
    }
    if not isinstance(images, ImageSet):
        return StreamLoader(images, **shared)
    return MemoryLoader(images, crop_padding=dataset.crop_padding, flip=dataset.flip, **shared)


def plain_loader(
    images: Images,
    dataset: Dataset,
    options: TrainerOptions,
    *,
    batch_size: int | None = None,
    part: Rank = ALONE,
) -> BatchLoader:
    """Make a loader of images as in evaluation, in order.

    Args:
        images: the images.
        dataset: has their normalisation.
        options: give device and layout.
        batch_size: images a batch; None for as many as suit the images.
        part: which of several ranks share the images out; every image is seen once.
    """
    if isinstance(images, ImageSet):
        kind, at_once = MemoryLoader, _AT_ONCE
    else:
        kind, at_once = StreamLoader, _STREAMED_AT_ONCE
    return kind(
        images,  # pyright: ignore[reportArgumentType]  of the kind that was looked for
        batch_size=batch_size or at_once,
        mean=dataset.mean,
        std=dataset.std,
        shuffle=False,
        memory_format=options.memory_format,
        device=options.device,
        part=part,
    )


def class_weights(given: list[float] | str | None, sets: Sets) -> Tensor | None:
    """Return a weight for each class, shape (classes,).

    Args:
        given: the weights; `balanced`, for those that make the classes of the images that are
            trained on count alike; None for none.
        sets: the images.

    Raises:
        UserError: if they are not one for each class, or a class has no images to balance.
    """
    names, target = sets.dataset.class_names, sets.train.target
    if given is None:
        return None
    if given == "balanced":
        absent = (torch.bincount(target.cpu(), minlength=len(names)) == 0).nonzero()
        if len(absent):
            raise UserError(
                f"task.class_weights=balanced: class {names[int(absent[0])]} has no training "
                "image: give a list of weights"
            )
        from sklearn.utils.class_weight import compute_class_weight

        weights = compute_class_weight(
            "balanced", classes=np.arange(len(names)), y=target.cpu().numpy()
        )
        return torch.tensor(weights, dtype=torch.float32)
    if len(given) != len(names):
        raise UserError(
            f"task.class_weights has {len(given)} numbers, and there are {len(names)} classes: "
            "give one for each, in the order of class_names.json"
        )
    return torch.tensor(given, dtype=torch.float32)


def probe_batch(sets: Sets, options: TrainerOptions) -> Batch | None:
    """Return the probe as one batch, the whole of it on every rank; None where there is none."""
    if sets.probe is None:
        return None
    return next(iter(plain_loader(sets.probe, sets.dataset, options, batch_size=len(sets.probe))))


def example_batch(
    sets: Sets, options: TrainerOptions, *, size: int = 8, strong_view: bool = False
) -> Batch:
    """Return the first training instances as they are, on the CPU, where networks are made.

    Their strong view, if there is to be one, is the same images.
    """
    first = sets.train.select(first_readable(sets.train, size))
    batch = next(iter(plain_loader(first, sets.dataset, options, batch_size=len(first))))
    image = batch.image.cpu()
    return Batch(image, batch.target.cpu(), batch.index.cpu(), image if strong_view else None)


def share_unreadable(dataset: Dataset) -> None:
    """Report to all ranks the images that any could not decode; all call it together."""
    if dataset.unreadable is not None and dataset.unreadable.skips:
        for places in distributed.gather_objects(list(dataset.unreadable.places)):
            dataset.unreadable.add(places)


def leave_unreadable(folder: RunFolder, dataset: Dataset) -> None:
    """Write how many images could not be decoded, and where they are, if any was skipped."""
    if dataset.unreadable is not None and dataset.unreadable.places:
        places = dataset.unreadable.places
        entry = {"count": len(places), "places": list(places)}
        write_object(folder.path / UNREADABLE, entry)


def take_up_unreadable(folder: RunFolder, dataset: Dataset) -> None:
    """Count the images that the run, before it was interrupted, could not decode.

    Raises:
        UserError: if what it left cannot be read.
    """
    path = folder.path / UNREADABLE
    if dataset.unreadable is None or not path.is_file():
        return
    places = read_object(path, "fix or remove it").get("places")
    if not isinstance(places, list):
        raise UserError(f"{path} lists no places: fix or remove it")
    dataset.unreadable.add(map(str, places))


def data_sha256(dataset: Dataset) -> str:
    """Return the hash by which the data are recognised where they have moved; see `fingerprint`."""
    splits = [(each.target, each.content) for each in (dataset.train, dataset.test)]
    return fingerprint(dataset.class_names, splits)


def count_readable(images: Images, dataset: Dataset) -> int:
    """Return how many images there are, without those that are known to be no image."""
    met = set(() if dataset.unreadable is None else dataset.unreadable.places)
    if isinstance(images, ImageSet) or not met:
        return len(images)
    return sum(images.place(row) not in met for row in range(len(images)))
