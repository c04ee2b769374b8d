"""From a configuration to the parts of a run, each made of flat parameters."""

import inspect
import sys
from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from rlkd import arguments, models
from rlkd.config.options import (
    TrainerOptions,
    exploration_options,
    probe_options,
    trainer_options,
)
from rlkd.config.overrides import path_value
from rlkd.data.dataset import Dataset
from rlkd.engine.class_names import check_order, taught_rows
from rlkd.engine.finished_run import refuse_new_head
from rlkd.engine.module import Schedule, ScheduleBy
from rlkd.engine.normalisation import renormalisation, resolution
from rlkd.engine.parts import fixable, make
from rlkd.engine.task import Task
from rlkd.errors import UserError, notice
from rlkd.exploration import Explorer
from rlkd.losses import Objective
from rlkd.models import Teacher
from rlkd.temperature import TemperatureSource
from rlkd.trust import TRUST

_REHEARSED = 2000
"""The most steps of a schedule that are tried before training."""


def network(config: DictConfig, role: str, dataset: Dataset, *, trains: bool = False) -> nn.Module:
    """Make a network for the data, with the weights of its checkpoint if it has one.

    It has been tried on noise of the shape that it will see, and returns logits.

    Args:
        config: the `teacher` or `student` node.
        role: its name, for messages.
        dataset: gives the number of classes, and the shape of images.
        trains: whether it is to train.

    Raises:
        UserError: if it has no name, does not take the images, returns no logits, its checkpoint
            does not fit, or it is of another class order.
    """
    if config.name is None:
        raise UserError(f"{role}.name is missing: give {role}=resnet20, say")
    made = models.create(
        config.name,
        num_classes=dataset.num_classes,
        in_channels=dataset.shape[0],
        trusted=OmegaConf.select(config, f"..{TRUST}") or (),
    )
    channels, height, width = dataset.shape
    shape = (channels, *(resolution(config) or (height, width)))
    called = models.called_once(
        made,
        f"{role} {config.name}",
        shape=shape,
        num_classes=dataset.num_classes,
        trains=trains,
        settings=_image_settings(config, role),
    )
    if config.checkpoint is None:
        if config.get("head") is not None:
            raise UserError(f"{role}.head={config.head} is for {role}.checkpoint=FILE: give both")
        return made
    # A quantisation-aware network has by its first call the form that it is saved in.
    filled = made if models.same_form(made, called) else called
    classifier = partial(models.classifier_entries, filled, dataset.num_classes, shape)
    _load(filled, classifier, config, role, dataset, trains=trains)
    return filled


def _image_settings(config: DictConfig, role: str) -> models.Settings:
    data = OmegaConf.select(config, "..data")
    channels, size = (f"data.{key}" if key in data else None for key in ("channels", "image_size"))
    return channels, f"{role}.image_size" if "image_size" in config else size


def new_head(config: DictConfig, role: str) -> bool:
    """Return whether a network's classifier is to be new, the rest its checkpoint's.

    Raises:
        UserError: if its `head` is not known.
    """
    head = config.get("head")
    if head not in (None, "checkpoint", "new"):
        raise UserError(f"{role}.head={head}: give new, or checkpoint for all of its weights")
    return head == "new"


def frozen(config: DictConfig) -> list[str]:
    """Return the patterns of the parameters that the student does not train, see `models.freeze`.

    Args:
        config: the `student` node.

    Raises:
        UserError: if they are no texts.
    """
    given: Any = config.get("freeze")
    if given is None:
        return []
    patterns = [given] if isinstance(given, str) else list(given)
    if not patterns or not all(isinstance(each, str) for each in patterns):
        raise UserError(f"student.freeze={given}: give patterns of names, such as [layer1.*]")
    return patterns


def _load(
    made: nn.Module,
    classifier: Callable[[], list[str]],
    config: DictConfig,
    role: str,
    dataset: Dataset,
    *,
    trains: bool,
) -> None:
    path = Path(config.checkpoint)
    classes, rows = config.get("classes"), None
    remedy = "student.head=new for all of it but the classifier" if trains else ""
    if role == "teacher":
        remedy = "teacher.classes=[...] for the data's classes among its own"
    if classes is not None:
        rows = taught_rows(classes, path, dataset.class_names)
    elif not new_head(config, role):
        check_order(path, dataset.class_names, remedy=remedy)
    other = rows is not None or new_head(config, role)
    try:
        loaded = models.load_weights(
            made, path, classifier=classifier if other else None, rows=rows
        )
    except models.ClassCountError as error:
        raise UserError(f"{error}, or {remedy}" if remedy else str(error)) from None
    if loaded.note:
        notice(f"{role} {path}: {loaded.note}")


def teacher(
    config: DictConfig, dataset: Dataset, options: TrainerOptions, *, fuse: bool = True
) -> Teacher | None:
    """Make the frozen teacher, or the mean of several; None for `teacher=none`.

    In bfloat16 training its weights are cast once, not at every step.

    Args:
        config: the `teacher` node; its `mean`, `std` and `image_size`, where given, are what it
            wants in place of the data's; `also` are further teachers.
        dataset: gives the number of classes and of channels, and the data's normalisation.
        options: give precision and layout.
        fuse: whether batch norms may be folded away, which takes the places of features along.

    Raises:
        UserError: if it has no checkpoint: a teacher that has learnt nothing teaches nothing.
    """
    if config.name is None:
        return None
    nodes = [config, *_also(config)]
    weights = [each.get("weight") for each in nodes]
    weights = [1.0 if each is None else each for each in weights]
    for each in weights:
        arguments.number("teacher.weight", each, above=0)
    made = [_teacher(config, dataset, options, fuse=fuse)]
    for number, each in enumerate(nodes[1:]):
        try:
            made.append(_teacher(each, dataset, options, fuse=fuse))
        except UserError as error:
            raise UserError(f"teacher.also[{number}]: {error}") from None
    whole = made[0] if len(made) == 1 else models.mean_of(made, weights)
    return whole.to(memory_format=options.memory_format)


def _also(config: DictConfig) -> list[DictConfig]:
    """Return the nodes of further teachers."""
    given: Any = config.get("also")
    if given is None:
        return []
    own = ("checkpoint", "mean", "std", "image_size", "classes", "weight")
    base = config.copy()
    OmegaConf.set_struct(base, False)  # a file of one's own may have fewer keys
    nodes: list[DictConfig] = []
    for each in given if isinstance(given, ListConfig) else [given]:
        if not isinstance(each, DictConfig) or not set(map(str, each)) <= {"name", *own}:
            raise UserError(
                "teacher.also is a list of further teachers, such as [{name: resnet56, checkpoint: "
                f"FILE, weight: 2}}], each with any of name, {', '.join(own)}"
            )
        path = path_value("teacher.also.checkpoint", each.get("checkpoint"))
        node = OmegaConf.merge(base, dict.fromkeys(own), each, {"checkpoint": path})
        assert isinstance(node, DictConfig)
        nodes.append(node)
    return nodes


def _teacher(
    config: DictConfig, dataset: Dataset, options: TrainerOptions, *, fuse: bool
) -> Teacher:
    if config.checkpoint is None:
        raise UserError(
            f"the teacher {config.name} has no weights: give teacher.checkpoint=FILE (make one "
            f"with `rlkd train student={config.name} ...`)"
        )
    dtype = torch.bfloat16 if options.precision.startswith("bf16") else None
    loaded = network(config, "teacher", dataset)
    return Teacher(
        loaded,
        dtype=dtype,
        fuse=fuse,
        renormalise=renormalisation(config, dataset),
        sha256=models.weights_sha256(loaded),
        image_size=resolution(config),
    )


def objective(config: DictConfig) -> Objective:
    """Make the student's objective.

    Raises:
        UserError: if its values make none.
    """
    return make(config, "method")


def task(config: DictConfig) -> Task:
    """Make the kind of training that the configuration is of."""
    return make(config, "task")


def given_checkpoints(
    config: DictConfig, *, published: Container[str] = ()
) -> dict[str, DictConfig]:
    """Return the nodes of teacher and student that name a checkpoint.

    Args:
        config: the whole configuration.
        published: those of the two that have weights without one.

    Raises:
        UserError: if neither does, or the student's classifier is new.
    """
    refuse_new_head(config)
    given = {
        role: config[role]
        for role in ("teacher", "student")
        if config[role].get("checkpoint") is not None or role in published
    }
    if not given:
        raise UserError(
            "nothing to evaluate: give teacher.checkpoint=FILE or student.checkpoint=FILE"
        )
    return given


def temperature(config: DictConfig, *, num_classes: int) -> TemperatureSource:
    """Make the temperature source.

    Args:
        config: the whole configuration.
        num_classes: columns of the logits, for a source whose own setting of the name is null.

    Raises:
        UserError: if its values do not fit, or it measures its reward on images that there are not.
    """
    node = config.temperature
    of_the_data = {"num_classes": num_classes} if node.get("num_classes", 0) is None else {}
    source: TemperatureSource = make(config, "temperature", **of_the_data)
    probe = probe_options(config.probe)
    if source.needs_probe and source.held_out is None and probe.upcoming:
        raise UserError(
            "probe.source=upcoming is for temperatures that look ahead: give probe.source=held_out"
        )
    if source.needs_probe and not (probe.size or probe.upcoming):
        raise UserError("temperature.reward_source=probe needs images: give a probe.size above 0")
    return source


def optimizer(config: DictConfig) -> Callable[..., torch.optim.Optimizer]:
    """Make the maker of the student's optimiser.

    Raises:
        UserError: if its values make none.
    """
    maker: Any = make(config, "optimizer")
    _check_settings("optimizer", maker)
    with fixable("optimizer", config.optimizer):
        rehearsed = nn.Parameter(torch.zeros(1))
        rehearsed.grad = torch.zeros(1)
        maker([rehearsed]).step()
    return maker


def scheduler(config: DictConfig, *, steps_per_epoch: int = 1) -> tuple[Schedule, ScheduleBy]:
    """Make the maker of the learning-rate schedule, and say when to step it.

    One that asks for `total_steps` is given it and stepped once a step, any other once an epoch.

    Raises:
        UserError: if its values make none, or one that fails before the run is over.
    """
    options = trainer_options(config)
    maker: Any = make(config, "scheduler")
    _check_settings("scheduler", maker)
    with fixable("scheduler", config.scheduler):
        by: ScheduleBy = "step" if "total_steps" in inspect.signature(maker).parameters else "epoch"
        steps = options.epochs
        if by == "step":
            steps = min(options.epochs * steps_per_epoch, options.max_steps or sys.maxsize)
            maker = partial(maker, total_steps=steps)
        rehearsed = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = maker(rehearsed)
        rehearsed.step()
        for number in range(min(steps, options.epochs, _REHEARSED)):
            schedule.step()
            rate = float(rehearsed.param_groups[0]["lr"])
            if not abs(rate) <= arguments.LARGEST:
                raise ValueError(f"from {by} {number + 1} on the learning rate is {rate:.1g}")
    return maker, by


def explorer(
    config: DictConfig,
    *,
    instances: int,
    num_classes: int,
    first_epoch: int,
    seed: int,
    mixes: bool = True,
) -> Explorer | None:
    """Make the explorer; None where exploration is off.

    Args:
        config: the `exploration` node.
        instances: size of the training set.
        num_classes: of the data.
        first_epoch: the agent's first, counted from 1.
        seed: of the run.
        mixes: whether images can be mixed, which takes all to be of one size.
    """
    options = exploration_options(config)
    if not options.enabled:
        return None
    return Explorer(
        instances=instances,
        num_classes=num_classes,
        first_epoch=first_epoch,
        epochs=options.epochs,
        bands=options.bands if mixes else replace(options.bands, mixed=(0.0, 0.0)),
        mix_weight=options.mix_weight,
        seed=seed,
    )


def _check_settings(section: str, maker: Any) -> None:
    """Refuse numbers that torch's optimisers and schedules, or anybody's, would take unchecked.

    Args:
        section: the key that they are set under.
        maker: a class or function with its settings bound.

    Raises:
        UserError: for true or a text in the place of a number, NaN, one that is too large, and a
            fraction where the signature says int.
    """
    bound: dict[str, Any] = getattr(maker, "keywords", {})
    for name, parameter in inspect.signature(getattr(maker, "func", maker)).parameters.items():
        kind, default = parameter.annotation, parameter.default
        values = bound.get(name, default)
        for value in values if isinstance(values, list | tuple) else [values]:
            key = f"{section}.{name}"
            if name not in bound or (value is None and not isinstance(default, int | float)):
                continue
            if isinstance(default, bool):
                arguments.flag(key, value)
            elif isinstance(value, bool) and (
                "bool" in str(kind) or (default is None and kind is parameter.empty)
            ):
                continue  # such as `fused: bool | None = None`
            elif kind in (int, "int"):
                arguments.count(key, value, least=-1)
            elif isinstance(default, int | float) or isinstance(value, bool | int | float):
                arguments.number(key, value, least=0 if name == "lr" else -arguments.LARGEST)
