"""From a configuration to the parts of a run, each made of flat parameters."""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from rlkd import models
from rlkd.data import ImageSet, MemoryLoader, hold_out
from rlkd.data.sets import Dataset
from rlkd.errors import UserError
from rlkd.exploration import Explorer
from rlkd.losses import Objective
from rlkd.models import Teacher
from rlkd.temperature import TemperatureSource
from rlkd.training.compose import unresolved
from rlkd.training.distiller import Schedule
from rlkd.training.normalisation import renormalisation
from rlkd.training.options import (
    TrainerOptions,
    exploration_options,
    probe_options,
    trainer_options,
)
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


def sets(config: DictConfig, options: TrainerOptions) -> Sets:
    """Load the data and hold out what is not to be trained on.

    Raises:
        UserError: if the data are missing or broken, or too much is held out.
    """
    probe_size = probe_options(config.probe).size
    dataset = make(config.data, "data")
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


def network(config: DictConfig, role: str, dataset: Dataset) -> nn.Module:
    """Make a network for the data, with the weights of its checkpoint if it has one.

    Args:
        config: the `teacher` or `student` node.
        role: its name, for messages.
        dataset: gives the number of classes and of channels.

    Raises:
        UserError: if it has no name, or its checkpoint does not fit.
    """
    if config.name is None:
        raise UserError(f"{role}.name is missing: give {role}=resnet20, say")
    made = models.create(
        config.name,
        num_classes=dataset.num_classes,
        in_channels=dataset.train.image.shape[1],
    )
    if config.checkpoint is not None:
        models.load_weights(made, Path(config.checkpoint))
    return made


def teacher(
    config: DictConfig, dataset: Dataset, options: TrainerOptions, *, fuse: bool = True
) -> Teacher | None:
    """Make the frozen teacher; None for `teacher=none`.

    In bfloat16 training its weights are cast once, not at every step.

    Args:
        config: the `teacher` node; its `mean` and `std`, where given, are the normalisation that
            it wants in place of the data's.
        dataset: gives the number of classes and of channels, and the data's normalisation.
        options: give precision and layout.
        fuse: whether batch norms may be folded away, which takes the places of features along.

    Raises:
        UserError: if it has no checkpoint: a teacher that has learnt nothing teaches nothing.
    """
    if config.name is None:
        return None
    if config.checkpoint is None:
        raise UserError(
            f"the teacher {config.name} has no weights: give teacher.checkpoint=FILE (make one "
            f"with `rlkd train student={config.name} ...`)"
        )
    dtype = torch.bfloat16 if options.precision.startswith("bf16") else None
    made = Teacher(
        network(config, "teacher", dataset),
        dtype=dtype,
        fuse=fuse,
        renormalise=renormalisation(config, dataset),
    )
    return made.to(memory_format=options.memory_format)


def objective(config: DictConfig) -> Objective:
    """Make the student's objective.

    Raises:
        UserError: if a weight is no number.
    """
    made: Objective = make(config.method, "method")
    for name, term in made.terms.items():
        with _mendable(config.method.terms[name], f"method.terms.{name}"):
            if not math.isfinite(term.weight):
                raise ValueError("its weight must be finite")
    return made


def temperature(config: DictConfig) -> TemperatureSource:
    """Make the temperature source."""
    source = make(config.temperature, "temperature")
    if (
        getattr(getattr(source, "reward", None), "source", None) == "probe"
        and not probe_options(config.probe).size
    ):
        raise UserError("temperature.reward_source=probe needs images: give probe.size=512, say")
    return source


def optimizer(config: DictConfig) -> Callable[..., torch.optim.Optimizer]:
    """Make the maker of the student's optimiser.

    Raises:
        UserError: if its values make none.
    """
    maker = make(config.optimizer, "optimizer")
    with _mendable(config.optimizer, "optimizer"):
        maker([nn.Parameter(torch.zeros(1))])
    return maker


def scheduler(config: DictConfig) -> Schedule:
    """Make the maker of the learning-rate schedule.

    Raises:
        UserError: if its values make none, or one that fails before the run is over.
    """
    maker = make(config.scheduler, "scheduler")
    with _mendable(config.scheduler, "scheduler"):
        rehearsed = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = maker(rehearsed)
        rehearsed.step()
        for _ in range(trainer_options(config).epochs):
            schedule.step()
    return maker


def explorer(config: DictConfig, sets: Sets, *, first_epoch: int) -> Explorer | None:
    """Make the explorer; None where exploration is off.

    Args:
        config: the `exploration` node.
        sets: gives the training set.
        first_epoch: the agent's first, counted from 1.
    """
    options = exploration_options(config)
    if not options.enabled:
        return None
    return Explorer(
        instances=len(sets.train),
        num_classes=sets.dataset.num_classes,
        first_epoch=first_epoch,
        epochs=options.epochs,
        bands=options.bands,
        mix_weight=options.mix_weight,
    )


def make(node: DictConfig, name: str) -> Any:
    """Instantiate a node by its `_target_`.

    Raises:
        UserError: if its values do not fit what it names.
    """
    try:
        with _mendable(node, name):
            return instantiate(node, _convert_="all")
    except OmegaConfBaseException as error:
        raise unresolved(error) from None


@contextmanager
def _mendable(node: DictConfig, name: str) -> Generator[None]:
    """Tell the user which values of a node did not fit."""
    try:
        yield
    except (InstantiationException, TypeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, UserError):
            raise cause from None
        if not isinstance(cause, TypeError | ValueError | ImportError):
            raise
        held: Any = OmegaConf.to_container(node, resolve=True)
        values = [
            f"{key}={value}"
            for key, value in held.items()
            if not key.startswith("_") and not isinstance(value, dict)
        ]
        told = f"; its settings are {', '.join(values)}" if values else ""
        raise UserError(f"{name} does not build: {' '.join(str(cause).split())}{told}") from error
