"""The images of a classification run, by their part in it, and the loaders over them."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from rlkd.data import ImageSet, MemoryLoader, hold_out
from rlkd.data.sets import Dataset
from rlkd.errors import UserError
from rlkd.training.build import make
from rlkd.training.options import TrainerOptions, probe_options
from rlkd.types import Batch


@dataclass(frozen=True)
class Sets:
    """The images of a run, by their part in it."""

    dataset: Dataset
    train: ImageSet
    """What the student trains on: all but what is held out."""
    test: ImageSet
    validation: ImageSet | None
    probe: ImageSet | None


def load_dataset(config: DictConfig) -> Dataset:
    """Load the data, all of them.

    Raises:
        UserError: if they are missing or broken, or are no set of labelled images.
    """
    dataset = make(config.data, "data")
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"data={config.chosen.data} has no label for each image: task=classification needs "
            "data=folder, say, and objects in boxes task=detection"
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
        train, probe = _held_out(train, probe_size, "probe.size", 1)
    return Sets(dataset, train, dataset.test, validation, probe)


def _held_out(images: ImageSet, size: int, key: str, seed: int) -> tuple[ImageSet, ImageSet]:
    try:
        return hold_out(images, size, seed=seed)
    except UserError as error:
        raise UserError(f"{key}={size}: {error}") from None


def train_loader(
    sets: Sets, options: TrainerOptions, *, seed: int, strong_view: bool = False
) -> MemoryLoader:
    """Make the loader of augmented, shuffled training batches."""
    return MemoryLoader(
        sets.train,
        batch_size=options.batch_size,
        mean=sets.dataset.mean,
        std=sets.dataset.std,
        shuffle=True,
        seed=seed,
        crop_padding=sets.dataset.crop_padding,
        flip=sets.dataset.flip,
        drop_last=len(sets.train) % options.batch_size == 1,
        strong_view=strong_view,
        memory_format=options.memory_format,
        device=options.device,
    )


def plain_loader(
    images: ImageSet, dataset: Dataset, options: TrainerOptions, *, batch_size: int = 500
) -> MemoryLoader:
    """Make a loader of images as they are, in order."""
    return MemoryLoader(
        images,
        batch_size=batch_size,
        mean=dataset.mean,
        std=dataset.std,
        shuffle=False,
        memory_format=options.memory_format,
        device=options.device,
    )


def probe_batch(sets: Sets, options: TrainerOptions) -> Batch | None:
    """Return the probe as one batch; None where there is none."""
    if sets.probe is None:
        return None
    return next(iter(plain_loader(sets.probe, sets.dataset, options, batch_size=len(sets.probe))))


def example_batch(
    sets: Sets, options: TrainerOptions, *, size: int = 8, strong_view: bool = False
) -> Batch:
    """Return the first training instances as they are, on the CPU, where networks are made.

    Their strong view, if there is to be one, is the same images.
    """
    first = sets.train.select(torch.arange(min(size, len(sets.train))))
    batch = next(iter(plain_loader(first, sets.dataset, options, batch_size=len(first))))
    image = batch.image.cpu()
    return Batch(image, batch.target.cpu(), batch.index.cpu(), image if strong_view else None)
