"""Whole runs: what the command line calls."""

import time
from collections.abc import Iterable
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from rich.console import Console

from rlkd import models
from rlkd.reporting import (
    AnyScores,
    Result,
    hardware,
    read_run,
    versions,
    write_metrics,
    write_report,
)
from rlkd.training import build
from rlkd.training.checkpoints import AtomicCheckpointIO, KeepLast, check_finite
from rlkd.training.compose import as_yaml, configure
from rlkd.training.logging import LogEpochs, WriteMetrics
from rlkd.training.progress import Clock, ShowProgress
from rlkd.training.quiet import quiet_lightning
from rlkd.training.run_folder import RunFolder, config_sha256
from rlkd.training.task import Prepared

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
    prepared = build.task(config).prepare(config, options)
    module, scores = prepared.module, prepared.scores
    folder.claim(settings)
    folder.require_space()

    clock = Clock()
    log = LogEpochs(folder, clock, scores, every_epochs=options.evaluate_every)
    show = ShowProgress(console, clock, folder, every_steps=options.log_every_steps)
    keep = KeepLast(folder.checkpoint, every_steps=options.checkpoint_every_steps)
    resumed = folder.checkpoint if folder.checkpoint.is_file() else None
    if resumed is not None:
        console.print(f"resuming from {resumed}", soft_wrap=True)
    taught_by = prepared.teacher_scores()
    if taught_by is not None:
        console.print(f"teacher: {taught_by.summary} on the test split", soft_wrap=True)
    with quiet_lightning():
        _trainer(folder, options, [clock, log, show, WriteMetrics(folder), keep]).fit(
            module, module.batches, ckpt_path=resumed, weights_only=True
        )
    check_finite(module, folder.checkpoint)

    final = log.latest or scores()
    result = Result(
        test=final["test"],
        validation=final.get("validation"),
        teacher=taught_by,
        epochs=len(module.history),
        seed=config.seed,
        images_per_second=clock.images_per_second,
        wall_seconds=clock.seconds_before + time.perf_counter() - began,
        hardware=hardware(),
        versions=versions(),
        config_sha256=config_sha256(settings),
    )
    _write(folder, prepared, result)
    return result


def score_checkpoints(
    overrides: Iterable[str] = (), *, console: Console | None = None
) -> dict[str, AnyScores]:
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
    return build.task(config).score_checkpoints(config, options, console)


def _trainer(
    folder: RunFolder, options: build.TrainerOptions, callbacks: list[L.Callback]
) -> L.Trainer:
    return L.Trainer(
        max_epochs=options.epochs,
        max_steps=options.max_steps or -1,
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


def _write(folder: RunFolder, prepared: Prepared, result: Result) -> None:
    module = prepared.module
    models.save_weights(module.student, folder.student)
    write_metrics(folder.metrics, module.history)
    policy = module.meters.read_policy()
    if policy is not None:
        policy.write(folder.policy)
    prepared.leave(folder)
    result.write(folder.result)
    title = f"rlkd: {folder.path.name}"
    write_report(
        folder.report, {folder.path.name: [read_run(folder.path)]}, title=title, command=None
    )
