"""Whole runs: what the command line calls."""

import time
from collections.abc import Iterable
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from rlkd import models
from rlkd.data import ImageSet
from rlkd.errors import UserError
from rlkd.models import Teacher
from rlkd.reporting import (
    Result,
    Scores,
    hardware,
    read_run,
    versions,
    write_metrics,
    write_report,
)
from rlkd.training import build
from rlkd.training.checkpoints import AtomicCheckpointIO, KeepLast, check_finite
from rlkd.training.compose import as_yaml, configure
from rlkd.training.distiller import Distiller
from rlkd.training.logging import LogEpochs, WriteMetrics
from rlkd.training.measure import evaluate
from rlkd.training.normalisation import renormalisation
from rlkd.training.observed import observe
from rlkd.training.progress import Clock, ShowProgress
from rlkd.training.quiet import quiet_lightning
from rlkd.training.run_folder import RunFolder, config_sha256

ALONE = ("method=alone", "teacher=none", "temperature=constant")
"""The overrides that make a plain supervised run of a distillation."""


def distill(overrides: Iterable[str] = (), *, console: Console | None = None) -> Result:
    """Distil a teacher into a student, as configured; go on where an earlier call stopped.

    Args:
        overrides: Hydra's, as on the command line: `student=resnet20`, `trainer.epochs=10`.
        console: where to show progress; None for standard output.

    Returns:
        The figures of the last epoch, as in result.json of the run folder.

    Raises:
        UserError: for what the user can mend.
        Interrupted: after Ctrl-C, with the path of the checkpoint.
    """
    return run(configure(overrides), console=console or Console())


def train(overrides: Iterable[str] = (), *, console: Console | None = None) -> Result:
    """Train a network on labels alone: a teacher, or a student's baseline. See `distill`."""
    return distill([*ALONE, *overrides], console=console)


def run(config: DictConfig, *, console: Console) -> Result:
    """Do what a composed configuration says. See `distill`."""
    began = time.perf_counter()
    options = build.trainer_options(config)
    settings = as_yaml(config)
    folder = RunFolder(Path(config.output))
    if folder.result.is_file() and folder.report.is_file():
        folder.claim(settings)
        console.print(f"{folder.path} is complete already", soft_wrap=True)
        return Result.read(folder.result)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(config.seed)
    sets = build.sets(config, options)
    distiller = _distiller(config, sets, options)
    folder.claim(settings)
    folder.require_space()

    clock = Clock()
    held_out = {"test": sets.test} | ({"validation": sets.validation} if sets.validation else {})

    def scores() -> dict[str, Scores]:
        return {
            name: score(distiller.student, images, sets, options)
            for name, images in held_out.items()
        }

    log = LogEpochs(folder, clock, scores, every_epochs=options.evaluate_every)
    show = ShowProgress(console, clock, folder, every_steps=options.log_every_steps)
    keep = KeepLast(folder.checkpoint, every_steps=options.checkpoint_every_steps)
    resumed = folder.checkpoint if folder.checkpoint.is_file() else None
    if resumed is not None:
        console.print(f"resuming from {resumed}", soft_wrap=True)
    with quiet_lightning():
        _trainer(folder, options, [clock, log, show, WriteMetrics(folder), keep]).fit(
            distiller, distiller.loader, ckpt_path=resumed, weights_only=True
        )
    check_finite(distiller, folder.checkpoint)

    final = log.latest or scores()
    result = Result(
        test=final["test"],
        validation=final.get("validation"),
        teacher=None
        if distiller.teacher is None
        else score(distiller.teacher, sets.test, sets, options),
        epochs=options.epochs,
        seed=config.seed,
        images_per_second=clock.images_per_second,
        wall_seconds=clock.seconds_before + time.perf_counter() - began,
        hardware=hardware(),
        versions=versions(),
        config_sha256=config_sha256(settings),
    )
    _write(folder, distiller, result)
    return result


def score_checkpoints(
    overrides: Iterable[str] = (), *, console: Console | None = None
) -> dict[str, Scores]:
    """Score the teacher's and the student's checkpoints on the test split.

    Args:
        overrides: must give `teacher.checkpoint`, `student.checkpoint` or both.
        console: where to print; None for standard output.

    Returns:
        The scores by role.

    Raises:
        UserError: for what the user can mend.
    """
    console = console or Console()
    config = configure(overrides)
    options = build.trainer_options(config)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    given = {
        role: config[role]
        for role in ("teacher", "student")
        if config[role].get("checkpoint") is not None
    }
    if not given:
        raise UserError(
            "nothing to evaluate: give teacher.checkpoint=FILE or student.checkpoint=FILE"
        )
    sets = build.sets(config, options)
    scored: dict[str, Scores] = {}
    for role, node in given.items():
        made = build.network(node, role, sets.dataset)
        if role == "teacher":
            made = Teacher(made, renormalise=renormalisation(node, sets.dataset))
        made = made.to(options.device)
        made = made.to(memory_format=options.memory_format)  # pyright: ignore[reportCallIssue]
        scored[role] = score(made, sets.test, sets, options)
        console.print(
            f"{role} {node.name}: top-1 {100 * scored[role].top1:.2f} %, top-5 "
            f"{100 * scored[role].top5:.2f} %, loss {scored[role].loss:.4f} "
            f"on {len(sets.test)} test images",
            soft_wrap=True,
        )
        written = models.read_metadata(Path(node.checkpoint)).get("accuracy")
        if isinstance(written, int | float):
            percent = written if written > 1 else 100 * written
            console.print(f"  its file says {percent:.2f} %")
    return scored


def score(
    network: nn.Module, images: ImageSet, sets: build.Sets, options: build.TrainerOptions
) -> Scores:
    """Score a network on a held-out set, in the run's precision."""
    device = options.device
    mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(options.precision)
    network = network.to(device)
    with torch.autocast(device.type, dtype=mixed, enabled=mixed is not None):
        batches = build.plain_loader(images, sets.dataset, options)
        return evaluate(network, batches, num_classes=sets.dataset.num_classes)


def _trainer(
    folder: RunFolder, options: build.TrainerOptions, callbacks: list[L.Callback]
) -> L.Trainer:
    return L.Trainer(
        max_epochs=options.epochs,
        accelerator=options.device.type,
        devices=1,
        precision=options.precision,  # pyright: ignore[reportArgumentType]
        logger=TensorBoardLogger(folder.path, name="", version="tensorboard"),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=0,
    )


def _distiller(config: DictConfig, sets: build.Sets, options: build.TrainerOptions) -> Distiller:
    objective = build.objective(config)
    student = build.network(config.student, "student", sets.dataset)
    teacher, temperature = None, None
    if objective.needs_teacher:
        teacher = build.teacher(config.teacher, sets.dataset, options, fuse=not objective.taps)
        temperature = build.temperature(config)
        if teacher is None:
            raise UserError("this method needs a teacher: give teacher=resnet56, or method=alone")
    first_epoch = getattr(temperature, "warmup_epochs", 0) + 1
    explorer = build.explorer(config.exploration, sets, first_epoch=first_epoch)
    student = student.to(memory_format=options.memory_format)  # pyright: ignore[reportCallIssue]
    observed = observe(
        objective,
        student,
        teacher,
        batch=build.example_batch(sets, options, strong_view=objective.strong),
        train_targets=sets.train.target,
        num_classes=sets.dataset.num_classes,
        temperature=temperature,
        mixes=teacher is not None and explorer is not None,
    )
    return Distiller(
        student=student,
        loader=build.train_loader(sets, options, seed=config.seed, strong_view=objective.strong),
        objective=objective,
        optimizer=build.optimizer(config),
        scheduler=build.scheduler(config),
        teacher=teacher,
        temperature=temperature,
        explorer=None if teacher is None else explorer,
        probe=build.probe_batch(sets, options),
        observed=observed,
    )


def _write(folder: RunFolder, distiller: Distiller, result: Result) -> None:
    models.save_weights(distiller.student, folder.student)
    write_metrics(folder.metrics, distiller.history)
    policy = distiller.meters.read_policy()
    if policy is not None:
        policy.write(folder.policy)
    result.write(folder.result)
    title = f"rlkd: {folder.path.name}"
    write_report(
        folder.report, {folder.path.name: [read_run(folder.path)]}, title=title, command=None
    )
