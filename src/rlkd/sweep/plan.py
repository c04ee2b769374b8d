"""The runs of a sweep: every combination of the values given, and how each is started."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from omegaconf import DictConfig

from rlkd import arguments
from rlkd.config.compose import LAUNCHER, as_yaml, choice, configure, configure_launcher, sweep
from rlkd.config.options import logger_options, probe_options, read_options
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import NoSettingError, UserError

_LONGEST_NAME = 200
"""Bytes of the name of a run's folder; file systems take 255, those of its log included."""
AUTO = "auto"
MOST_JOBS = 1024


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


def jobs_of(word: str) -> int | None:
    """Return how many runs `jobs=` asks for; None for as many as fill the machine.

    Raises:
        UserError: if it is no number of them.
    """
    value = word.partition("=")[2]
    if value == AUTO:
        return None
    if not value.isdecimal() or not 1 <= int(value[:9]) <= MOST_JOBS:
        raise UserError(f"{word}: give auto, or 1 to {MOST_JOBS} runs at a time")
    return int(value)


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
    logger_options(common).require_installed()
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


def unfollowed(name: str) -> str:
    """Return why a run does not begin that follows another, which failed."""
    return f"{name}, which it follows, has not ended"


def message_of(error: Exception) -> str:
    """Return a failure in words."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
