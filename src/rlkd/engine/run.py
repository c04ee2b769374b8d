"""Whole runs: what the command line calls."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rlkd import distributed, models
from rlkd.config.compose import ALONE, as_yaml, configure
from rlkd.config.options import logger_options
from rlkd.data.loaders.workers import dead_worker
from rlkd.data.seeding import generator_of
from rlkd.engine import build
from rlkd.engine.callbacks.checkpoint import KeepLast, StoredCheckpointIO, check_finite
from rlkd.engine.callbacks.early_stopping import StopEarly
from rlkd.engine.callbacks.metrics import EventsLogger, LogEpochs, WriteMetrics
from rlkd.engine.callbacks.progress import Clock, ReportProgress, ShowProgress, Watch
from rlkd.engine.checkpoint_content import content_fault
from rlkd.engine.compile import uncompiled
from rlkd.engine.finished_run import configured, own_words
from rlkd.engine.launch import Launch, lost
from rlkd.engine.lock import locked
from rlkd.engine.module import StudentModule
from rlkd.engine.quiet import quiet_lightning
from rlkd.engine.run_folder import RunFolder, config_sha256
from rlkd.engine.signals import Interrupted
from rlkd.engine.task import Prepared
from rlkd.engine.trackers import Tracker, tracking
from rlkd.engine.tuning import recall, tune
from rlkd.errors import UserError
from rlkd.models import Teacher
from rlkd.regular_files import file_sha256
from rlkd.reporting import (
    AnyScores,
    PolicyMap,
    Result,
    hardware,
    read_run,
    versions,
    write_metrics,
    write_report,
)
from rlkd.reporting.escaping import say

_LARGE_PROBE = 0.25
"""Share of the training images that a probe may take unsaid."""


def distill(overrides: Iterable[str] = (), *, console: Console | None = None) -> Result:
    """Distil a teacher into a student, as configured; go on where an earlier call stopped.

    Args:
        overrides: Hydra's, as on the command line: `student=resnet20`, `trainer.epochs=10`.
        console: where to show progress; None for standard output.

    Returns:
        The figures of the last epoch, as in result.json of the run folder.

    Raises:
        UserError: for what the user can fix.
        Interrupted: after Ctrl-C, SIGTERM or SIGUSR1, with the path of the checkpoint.
    """
    if isinstance(overrides, str | Mapping):
        raise UserError('give settings as a list of texts, such as ["method=kd", "seed=1"]')
    return run(configure(overrides), console=console or Console())


def train(overrides: Iterable[str] = (), *, console: Console | None = None) -> Result:
    """Train a network on labels alone: a teacher, or a student's baseline. See `distill`."""
    return distill([*ALONE, *overrides], console=console)


def run(config: DictConfig, *, console: Console, watch: Watch | None = None) -> Result:
    """Do what a composed configuration says, with the ranks that were started. See `distill`.

    Args:
        config: the whole configuration.
        console: where to show progress.
        watch: hears of the progress; see `ReportProgress`.
    """
    options = build.trainer_options(config)
    logger_options(config).require_installed()
    launch = Launch.found()
    launch.join(options.device)  # before the ranks have met, nothing is lost
    config = config.copy()  # which tuning changes
    console = console if distributed.this_rank().rank == 0 else Console(quiet=True)
    show = partial(say, console)
    folder = RunFolder(Path(config.output))
    options.use_threads()
    try:
        if recall([config]):
            options = build.trainer_options(config)
        # To know that nothing is left to do takes no writing there.
        if distributed.on_rank_zero(lambda: folder.complete and folder.report.is_file()):
            return _completed(folder, config, options, show)
        with locked(folder.path, config.lock, console):
            if distributed.on_rank_zero(lambda: folder.complete):  # by the process that had it
                return _completed(folder, config, options, show)
            if not recall([config]):
                tune([config], show)
            options = build.trainer_options(config)
            with tracking(logger_options(config), folder.path) as tracker:
                return _trained(folder, config, options, launch, console, show, watch, tracker)
    except RuntimeError as error:
        known = lost(error) or uncompiled(error) or dead_worker(error)
        raise error if known is None else known from error


def _trained(
    folder: RunFolder,
    config: DictConfig,
    options: build.TrainerOptions,
    launch: Launch,
    console: Console,
    show: Callable[[str], None],
    watch: Watch | None,
    tracker: Tracker,
) -> Result:
    began, settings = time.perf_counter(), as_yaml(config)
    torch.manual_seed(config.seed)
    prepared = build.task(config).prepare(config, options)
    module, scores = prepared.module, prepared.scores
    distributed.on_rank_zero(lambda: _claim(folder, settings, prepared, show))
    clock = Clock(options.device)
    log = LogEpochs(folder, clock, scores, every_epochs=options.evaluate_every)
    progress = ShowProgress(
        console,
        clock,
        folder,
        every_steps=options.log_every_steps,
        scored=lambda: log.latest,
    )
    keep = KeepLast(
        folder,
        every_steps=options.checkpoint_every_steps,
        every_minutes=options.checkpoint_every_minutes,
        show=show,
        before_reading=clock.settle,
    )
    callbacks: list[L.Callback] = [_ShareStatistics(), clock, log, progress]
    stop = None
    if options.early_stopping is not None:
        stop = StopEarly(log, patience=options.early_stopping)
        callbacks.append(stop)
    callbacks += [WriteMetrics(folder, tracker), keep]
    callbacks += [] if watch is None else [ReportProgress(watch, clock)]
    with quiet_lightning():
        events = EventsLogger(folder) if tracker.options.tracker == "tensorboard" else False
        trainer = _trainer(folder, options, launch, callbacks, events)
    resumed = distributed.on_rank_zero(
        lambda: folder.checkpoints.sound(show, lambda place: content_fault(place, trainer, module))
    )
    if resumed is not None:
        show(f"resuming from {resumed}")
    taught_by = prepared.teacher_scores()
    if taught_by is not None:
        show(f"teacher: {taught_by.summary} on the test split")
    probe, source = build.probe_options(config.probe), module.temperature
    if probe.size and (source is None or not source.needs_probe or probe.upcoming):
        show(
            f"probe.size={probe.size} holds as many training images out, though no reward is "
            "measured on them"
        )
    probed, kept = prepared.images.probe, prepared.images.training
    if probed > _LARGE_PROBE * (probed + kept):
        show(
            f"the probe holds out {probed:,} of {probed + kept:,} training images: lower probe.size"
        )
    if probe.upcoming and (source is None or source.held_out is None):
        show("probe.source=upcoming: no temperature of this run looks ahead")
    epoch = len(module.loader) // options.accumulate
    first, steps = source and source.first_update(epoch), epoch * options.epochs
    if first is not None and first > steps:
        show(
            f"the policy does not move in a run of {steps} steps: it would first do so at step "
            f"{first}; give more epochs, a smaller trainer.batch_size, or a lower "
            "temperature.update_interval or temperature.probe_interval"
        )
    held: Any = OmegaConf.to_container(OmegaConf.create(settings))
    tracker.start(held)
    if distributed.this_rank().rank > 0:  # dropout's draws are each rank's own
        torch.manual_seed(generator_of(config.seed, distributed.this_rank().rank).initial_seed())
    with quiet_lightning(), keep.signals.listening():
        trainer.fit(module, clock.timed(module.loader), ckpt_path=resumed, weights_only=True)
    check_finite(module, folder)
    if stop is not None and stop.stopped:
        show(
            f"stopped after epoch {len(module.history)}: no better on the validation images, "
            f"trainer.early_stopping={options.early_stopping}"
        )

    final = log.latest or scores()
    result = Result(
        test=final["test"],
        validation=final.get("validation"),
        teacher=taught_by,
        teacher_sha256=module.teacher.sha256 if isinstance(module.teacher, Teacher) else None,
        images=prepared.images,
        epochs=len(module.history),
        seed=config.seed,
        images_per_second=clock.images_per_second,
        wall_seconds=clock.seconds_before + time.perf_counter() - began,
        hardware=hardware(),
        versions=versions(),
        config_sha256=config_sha256(settings),
    )
    # A trainer leaves the module on the CPU, where ranks with GPUs have nothing to meet by.
    policy = module.meters.to(options.device).read_policy()
    result = distributed.on_rank_zero(lambda: _write(folder, prepared, result, policy))
    tracker.conclude(result)
    for line in (*prepared.remarks(), *_remark_on_agent(module.history)):
        show(line)
    return result


def _remark_on_agent(history: Sequence[Mapping[str, int | float]]) -> list[str]:
    """Say whether an agent has found what to do, of the figures of each epoch."""
    found = [row["agent/evidence"] for row in history if "agent/evidence" in row]
    known = [each for each in found if math.isfinite(each)]
    if not known:
        return []
    moved = sum(each > 0 for each in known)
    return [
        f"the agent's updates agreed, and moved its policy, in {moved} of {len(known)} epochs "
        f"(agent/evidence, mean {sum(known) / len(known):.2f} of 1)"
    ]


def score_checkpoints(
    overrides: Iterable[str] = (), *, console: Console | None = None
) -> dict[str, AnyScores]:
    """Score the teacher's and the student's checkpoints on the test split.

    Args:
        overrides: must give `run`, a run folder, or `teacher.checkpoint`, `student.checkpoint` or
            both.
        console: where to print; None for standard output.

    Returns:
        The scores by role.

    Raises:
        UserError: for what the user can fix.
    """
    console = console or Console()
    words, others = own_words(overrides, ("run",))
    config = configured(others, run=words.get("run"))
    if "run" in words:
        config.teacher.checkpoint = None  # the run has reported it
    build.probe_options(config.probe)  # is refused if it is none ...
    config.probe.size = 0  # ... and holds out training images, which are not scored
    options = build.trainer_options(config)
    options.use_threads()
    return build.task(config).score_checkpoints(config, options, console)


def _completed(
    folder: RunFolder,
    config: DictConfig,
    options: build.TrainerOptions,
    show: Callable[[str], None],
) -> Result:
    """Return the figures of a run that is complete, having seen that it is the one asked for."""
    settings = as_yaml(config)
    folder.require_same(settings)
    if folder.moved(settings):  # are the data the same?
        torch.manual_seed(config.seed)
        prepared = build.task(config).prepare(config, options)
        folder.require_images(prepared.images, prepared.sha256)
    # A run that was killed at the very end has none.
    distributed.on_rank_zero(lambda: folder.report.is_file() or _report(folder))
    show(f"{folder.path} is complete already")
    result = Result.read(folder.result)
    with tracking(logger_options(config), folder.path) as tracker:
        held: Any = OmegaConf.to_container(OmegaConf.create(settings))
        tracker.complete(held, result)
    return result


def _claim(
    folder: RunFolder, settings: str, prepared: Prepared, show: Callable[[str], None]
) -> None:
    folder.claim(settings, prepared.images, prepared.sha256, show=show)
    folder.require_space()
    prepared.enter(folder)


class _ShareStatistics(L.Callback):
    """Gives all ranks the running statistics of rank 0, which scores and checkpoints go by."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Share them before anything is scored."""
        assert isinstance(pl_module, StudentModule)
        distributed.broadcast_buffers(pl_module.student)
        if pl_module.averaged is not None:
            distributed.broadcast_buffers(pl_module.averaged)


def _trainer(
    folder: RunFolder,
    options: build.TrainerOptions,
    launch: Launch,
    callbacks: Sequence[L.Callback],
    logger: EventsLogger | bool,
) -> L.Trainer:
    return L.Trainer(
        max_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        accelerator=options.device.type,
        devices=launch.per_node,
        num_nodes=launch.nodes,
        strategy=launch.strategy(),
        precision=options.precision,  # pyright: ignore[reportArgumentType]
        logger=logger,
        callbacks=list(callbacks),
        plugins=[StoredCheckpointIO(folder.checkpoints, keep=options.keep_checkpoints)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=0,
    )


def _write(
    folder: RunFolder, prepared: Prepared, result: Result, policy: PolicyMap | None
) -> Result:
    module = prepared.module
    models.save_weights(module.evaluated, folder.student)
    write_metrics(folder.metrics, module.history)
    if policy is not None:
        policy.write(folder.policy)
    prepared.leave(folder)
    result = replace(result, student_sha256=file_sha256(folder.student))
    result.write(folder.result)
    _report(folder)
    return result


def _report(folder: RunFolder) -> None:
    name = folder.path.name
    write_report(
        folder.report, {name: [read_run(folder.path)]}, title=f"rlkd: {name}", command=None
    )


def attempt(
    config: DictConfig, console: Console, *, watch: Watch | None = None
) -> Exception | None:
    """Do a run, and return why it failed, out of memory too; None where it did not.

    Args:
        config: of the run.
        console: where it shows its progress.
        watch: hears of its progress; see `ReportProgress`.

    Raises:
        Interrupted: if it was asked to stop.
    """
    try:
        run(config, console=console, watch=watch)
    except Interrupted:
        raise
    except Exception as error:  # one run's failure is no other's
        if distributed.this_rank().world_size > 1:
            raise  # but other ranks may still be in this one
        return error
    return None
