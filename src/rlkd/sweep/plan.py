"""The runs of a sweep: every combination of the values given, and how each is started."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

from rlkd import arguments, distributed
from rlkd.config.compose import LAUNCHER, as_yaml, choice, configure, configure_launcher, sweep
from rlkd.config.options import logger_options, probe_options, read_options
from rlkd.engine import build
from rlkd.engine.callbacks.progress import Watch
from rlkd.engine.launch import Launch
from rlkd.engine.run import run
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.signals import Interrupted
from rlkd.engine.trackers import require_installed
from rlkd.engine.tuning import recall, tune
from rlkd.errors import NoSettingError, UserError
from rlkd.reporting.escaping import say

_LONGEST_NAME = 200
"""Bytes of the name of a run's folder; file systems take 255, those of its log included."""


@dataclass(frozen=True)
class Planned:
    """A run of a sweep."""

    labels: dict[str, str]
    """The swept settings but the seed, and their values here."""
    config: DictConfig
    follows: Path | None = None
    """The folder of a run of the sweep that it reads, so that it begins when that has ended."""

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return Path(self.config.output)


@dataclass
class LauncherOptions:
    """How the runs of a sweep are started; see configs/launcher/.

    Raises:
        UserError: for a number out of range.
    """

    cluster: str | None = None
    """None for this process, else submitit's name: `local` or `slurm`."""
    cells_per_job: int = 1
    array_parallelism: int = 1
    timeout_min: int = 1440
    max_timeouts: int = 5
    nodes: int = 1
    gpus_per_node: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    partition: str | None = None
    account: str | None = None
    signal_delay_s: int = 120
    setup: list[str] = field(default_factory=list[str])
    additional: dict[str, str | int | float | bool] | None = None

    def __post_init__(self) -> None:
        for name in (
            "cells_per_job",
            "array_parallelism",
            "timeout_min",
            "nodes",
            "tasks_per_node",
        ):
            arguments.count(f"{LAUNCHER}.{name}", getattr(self, name))
        for name in ("max_timeouts", "gpus_per_node", "signal_delay_s"):
            arguments.count(f"{LAUNCHER}.{name}", getattr(self, name), least=0)
        for name in ("cpus_per_task", "mem_gb"):
            arguments.count(f"{LAUNCHER}.{name}", getattr(self, name), optional=True)


def launcher_and_others(overrides: Iterable[str]) -> tuple[LauncherOptions, list[str]]:
    """Part how runs are started from what they are.

    Raises:
        UserError: for a launcher that is none, or a setting of it that is unknown or out of range.
    """
    given = list(overrides)
    own = [each for each in given if each.lstrip("+~").partition("=")[0].split(".")[0] == LAUNCHER]
    node = configure_launcher(own)
    options = read_options(LauncherOptions, node, f"{LAUNCHER}.")
    return options, [each for each in given if each not in own]


def plan(overrides: Iterable[str]) -> list[Planned]:
    """Return the runs of a sweep, seeds last, so that every combination has its first seed early.

    All of them hold the same images out of training: the largest probe of any is every run's,
    unless `probe.size` itself is swept.

    Args:
        overrides: Hydra's; those of several values, as `temperature=constant,rlkd`, are swept. Runs
            have folders of their own under `output`.

    Raises:
        UserError: if a combination does not compose, a probe's size is no number, or a tracker is
            not installed.
    """
    swept, single = sweep(overrides)
    seeds = swept.pop("seed", None)
    common = _common(single, swept)
    require_installed(logger_options(common))
    seeds = seeds or [str(common.seed)]
    named = any(each.lstrip("+").startswith("output=") for each in single)
    names = [choice(common, key) for key in ("data", "teacher", "student")]
    folder = Path(common.output) if named else Path("runs") / "_".join(["compare", *names])
    planned: list[Planned] = []
    for seed, *values in product(seeds, *swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        words = [f"{key}={each}" for key, each in chosen.items()]
        config = configure([*single, *words, f"seed={seed}"])
        labels = {key.lstrip("+"): value for key, value in chosen.items()}
        take_place(config, folder, labels, seed)
        planned.append(Planned(labels, config))
    _require_folders_apart(planned)
    if "probe.size" not in swept:
        largest = max(probe_options(each.config.probe).size for each in planned)
        for each in planned:
            each.config.probe.size = largest
    return planned


def _common(single: Sequence[str], swept: Mapping[str, Sequence[str]]) -> DictConfig:
    """Compose what all combinations share, having seen that all can have the settings given.

    Raises:
        UserError: if it does not compose, or a value lacks a setting that another has.
    """
    for part, values in swept.items():
        alone = [each for each in single if each.lstrip("+~").startswith(f"{part}.")]
        lacking = {value: key for value in values if alone and (key := _lacks(part, value, alone))}
        if 0 < len(lacking) < len(values):
            value, key = next(iter(lacking.items()))
            raise UserError(
                f"{part}={value} has no setting {key}: leave it out, or compare arms that have "
                "settings of their own (study=FILE.yaml)"
            )
    try:
        return configure(single)
    except NoSettingError:  # which the default lacks, but no value
        return configure([*single, *(f"{part}={values[0]}" for part, values in swept.items())])


def _lacks(part: str, value: str, settings: Sequence[str]) -> str | None:
    """Return the first of some settings that a choice does not have; None where it has all."""
    try:
        configure([f"{part}={value}", *settings])
    except NoSettingError as error:
        return error.key
    except UserError:
        pass  # the combination itself meets it
    return None


def _require_folders_apart(planned: Sequence[Planned]) -> None:
    held: dict[str, Planned] = {}
    for each in planned:
        if held.setdefault(str(each.config.output), each) is not each:
            raise UserError(
                f"two runs would have one folder, {each.path.name}: give each value once, and "
                "files names that differ in more than /"
            )


def take_place(config: DictConfig, folder: Path, labels: Mapping[str, str], seed: object) -> None:
    """Give a run of a sweep its folder, and at a tracker the sweep's group."""
    config.output = str(named_run(folder, labels, seed))
    if "group" in (config.get("logger") or ()) and config.logger.group is None:
        config.logger.group = folder.absolute().name


def named_run(folder: Path, labels: Mapping[str, str], seed: object) -> Path:
    """Return the folder of a run of a sweep; a name too long for a file ends in its hash."""
    words = [f"{key}={value}" for key, value in (*labels.items(), ("seed", seed))]
    name = ",".join(each.replace("/", "_") for each in words)
    encoded = name.encode()
    if len(encoded) > _LONGEST_NAME:
        cut = encoded[: _LONGEST_NAME - 20].decode(errors="ignore")
        name = f"{cut},{hashlib.sha256(encoded).hexdigest()[:12]}"
    return folder / name


def tune_alike(planned: Sequence[Planned], *, threads: int | None, console: Console) -> None:
    """Find the settings that `trainer.tune` asks for, once, and give them to all runs.

    What is compared is computed alike, and as the runs of an earlier start were.

    Args:
        planned: the runs; their configurations are changed.
        threads: of each run; None for all of torch's.
        console: where to show what was found.

    Raises:
        UserError: if a setting is swept and to be found too, or the first run cannot be trained.
    """
    configs = [each.config for each in planned]
    for each in planned:
        swept = [f"trainer.{key}" for key in build.trainer_options(each.config).tunes]
        both = [key for key in swept if key in each.labels]
        if both:
            raise UserError(
                f"{both[0]} is swept, so trainer.tune cannot choose it: name the others, such as "
                "trainer.tune=[compile]"
            )
    if recall(configs):
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        build.trainer_options(configs[0]).use_threads()
        tune(configs, partial(say, console))
    finally:
        torch.set_num_threads(before)


def require_one_process() -> None:
    """Refuse to be started by torchrun or srun: what does many runs starts them itself.

    Raises:
        UserError: if it was.
    """
    if Launch.found().environment is not None:
        raise UserError(
            "several runs are started by one process: start it without torchrun or srun, and give "
            "each run its ranks by launcher=submitit_slurm launcher.tasks_per_node=8, say"
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


def require_trainable(planned: Sequence[Planned], console: Console) -> None:
    """Get ready to train what is not complete yet, each combination once, and leave it at that.

    What fails here for a reason that the user cannot fix, as for want of memory, is left to the
    run itself, and reported with the others.

    Raises:
        UserError: for the first combination that does not fit its networks or its data, or whose
            folder holds a different run.
    """
    first = first_of_each(planned)
    with console.status(f"trying whether {len(first)} combinations fit their networks and data"):
        for each in first:
            try:
                _prepare(each.config)
            except UserError as error:
                raise refused(each, str(error)) from None
            except Exception:  # whatever a network of somebody's own raises
                continue


def first_of_each(planned: Sequence[Planned]) -> list[Planned]:
    """Return the first run of each combination that is not complete.

    Raises:
        UserError: if the folder of one holds a different run.
    """
    for each in planned:
        RunFolder(each.path).require_same(as_yaml(each.config))
    first: dict[tuple[tuple[str, str], ...], Planned] = {}
    for each in planned:
        if not RunFolder(each.path).scored:
            first.setdefault(tuple(each.labels.items()), each)
    return list(first.values())


def refused(planned: Planned, fault: str) -> UserError:
    """Return what to say of a combination that cannot be trained."""
    words = " ".join(f"{key}={value}" for key, value in planned.labels.items())
    which = f"{words} cannot be trained, so no run was begun: " if words else ""
    return UserError(f"{which}{fault}")


def _prepare(config: DictConfig) -> None:
    options = build.trainer_options(config)
    options.use_threads()
    build.task(config).prepare(config, options)


def unfollowed(name: str) -> str:
    """Return why a run does not begin that follows another, which failed."""
    return f"{name}, which it follows, has not ended"


def message_of(error: Exception) -> str:
    """Return a failure in words."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
