"""The plain settings of a run, their types and ranges; configs/config.yaml has the defaults."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlkd import arguments
from rlkd.config.compose import unresolved
from rlkd.errors import UserError
from rlkd.exploration import Bands

LOCK_CHOICES = ("refuse", "wait")
"""What to do about a folder that another process writes in: the setting `lock`."""

_SERVICES = ("wandb", "mlflow", "trackio")
LOGGERS = ("tensorboard", "csv", *_SERVICES)
"""Where figures may be shown: the setting `logger.tracker`."""
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Torch's, by how much compiling time they trade for speed."""
TUNABLE = ("channels_last", "precision", "compile")
"""The settings of the trainer that `trainer.tune` may choose, in the order it tries them in."""
_MOST_THREADS = 1024
"""torch ends the process where a system has no such number of threads."""
_Options = TypeVar("_Options")


@dataclass
class TrainerOptions:
    """How long and on what a run trains.

    Raises:
        UserError: for a number out of range.
    """

    epochs: int
    max_steps: int | None
    batch_size: int
    accumulate: int
    gradient_clip: float | None
    ema: float | None
    sync_batch_norm: bool
    precision: str
    channels_last: bool | str
    compile: bool | str
    tune: Any
    accelerator: str
    threads: int | None
    evaluate_every: int
    validation_size: int
    early_stopping: int | None
    checkpoint_every_steps: int | None
    checkpoint_every_minutes: float | None
    keep_checkpoints: int
    log_every_steps: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "evaluate_every", "log_every_steps"):
            arguments.count(f"trainer.{name}", getattr(self, name))
        for name in ("max_steps", "checkpoint_every_steps"):
            arguments.count(f"trainer.{name}", getattr(self, name), optional=True)
        arguments.count("trainer.threads", self.threads, most=_MOST_THREADS, optional=True)
        arguments.count("trainer.keep_checkpoints", self.keep_checkpoints)
        arguments.count("trainer.validation_size", self.validation_size, least=0)
        arguments.count("trainer.early_stopping", self.early_stopping, optional=True)
        if self.early_stopping is not None and not self.validation_size:
            raise UserError(
                f"trainer.early_stopping={self.early_stopping} stops by validation images, for the "
                "test split never selects: give trainer.validation_size=512, say"
            )
        arguments.number(
            "trainer.checkpoint_every_minutes",
            self.checkpoint_every_minutes,
            above=0,
            optional=True,
        )
        arguments.number("trainer.gradient_clip", self.gradient_clip, above=0, optional=True)
        arguments.number("trainer.ema", self.ema, above=0, below=1, optional=True)
        arguments.flag("trainer.sync_batch_norm", self.sync_batch_norm)
        if self.channels_last not in (True, False, "auto"):
            raise UserError(f"trainer.channels_last={self.channels_last}: give true, false or auto")
        named = [self.tune] if isinstance(self.tune, str) else self.tune
        if not isinstance(named, bool) and (
            not isinstance(named, list) or not set(map(str, named)) <= set(TUNABLE)
        ):
            raise UserError(
                f"trainer.tune={self.tune}: give true, false or some of {', '.join(TUNABLE)}"
            )

    def use_threads(self) -> None:
        """Have torch compute with as many threads of the CPU as were asked for."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    @property
    def tunes(self) -> tuple[str, ...]:
        """The settings that are to be found by trying, see `engine.tuning`."""
        if isinstance(self.tune, bool):
            return TUNABLE if self.tune else ()
        return tuple(each for each in TUNABLE if each in self.tune)

    @property
    def device(self) -> torch.device:
        """The device that batches are made on."""
        cuda = self.accelerator != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if cuda else "cpu")

    @property
    def mixed(self) -> torch.dtype | None:
        """The type that mixed precision computes in; None where precision is whole."""
        return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)

    def autocast(self) -> torch.autocast:
        """Return a context that computes in the run's precision."""
        return torch.autocast(self.device.type, dtype=self.mixed, enabled=self.mixed is not None)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of images and weights."""
        last = self.channels_last
        if last == "auto":
            last = self.device.type == "cpu" or self.mixed is not None
        return torch.channels_last if last else torch.contiguous_format


@dataclass
class ProbeOptions:
    """The images that a reward is measured on.

    Raises:
        UserError: for a number out of range, or an unknown source.
    """

    size: int
    """How many are held out of training."""
    source: str
    """`held_out`, or `upcoming`: a look-ahead's are those of the next batch."""

    def __post_init__(self) -> None:
        arguments.count("probe.size", self.size, least=0)
        if self.source not in ("held_out", "upcoming"):
            raise UserError(f"probe.source={self.source}: choose held_out or upcoming")

    @property
    def upcoming(self) -> bool:
        """Whether a look-ahead looks at the next batch."""
        return self.source == "upcoming"


@dataclass
class ExplorationOptions:
    """Which instances the agent learns from at first.

    Raises:
        UserError: for a number out of range.
    """

    enabled: bool
    epochs: int
    selected: float
    mixed: list[float]
    partners: list[float]
    mix_weight: float

    def __post_init__(self) -> None:
        arguments.flag("exploration.enabled", self.enabled)
        arguments.count("exploration.epochs", self.epochs, least=0)
        arguments.number("exploration.selected", self.selected, above=0, most=1)
        arguments.number("exploration.mix_weight", self.mix_weight, least=0, most=1)

    @property
    def bands(self) -> Bands:
        """Which ranks play which part.

        Raises:
            UserError: for bands that are none, or overlap wrongly.
        """
        for name, band in (("mixed", self.mixed), ("partners", self.partners)):
            if len(band) != 2:
                raise UserError(f"exploration.{name}={band}: give two fractions, such as [0.1,0.2]")
        mixed, partners = self.mixed, self.partners
        return Bands(
            selected=self.selected,
            mixed=(mixed[0], mixed[1]),
            partners=(partners[0], partners[1]),
        )


@dataclass
class LoggerOptions:
    """Where a run's figures are shown besides metrics.csv.

    Raises:
        UserError: for an unknown tracker, or no project.
    """

    tracker: str = "tensorboard"
    project: str = "rlkd"
    name: str | None = None
    """Of the run; None for that of its folder."""
    group: str | None = None
    tags: list[str] = field(default_factory=list[str])
    offline: bool = True
    """Whether everything stays in the run folder."""

    def __post_init__(self) -> None:
        if self.tracker not in LOGGERS:
            raise UserError(f"logger={self.tracker}: choose one of {', '.join(LOGGERS)}")
        if not self.project:
            raise UserError("logger.project is missing: give logger.project=NAME")
        arguments.flag("logger.offline", self.offline)

    def require_installed(self) -> None:
        """Refuse a tracker whose package, which has its name, is absent.

        Raises:
            UserError: with the command that installs it.
        """
        if self.tracker in _SERVICES and find_spec(self.tracker) is None:
            raise UserError(f"logger={self.tracker} needs its package: pip install {self.tracker}")


@dataclass
class _PlainOptions:
    seed: int
    lock: str


def trainer_options(config: DictConfig) -> TrainerOptions:
    """Read and check the trainer's options, the seed that everything follows from, and the lock.

    Whatever runs calls it first, so that the logger's are checked too.

    Raises:
        UserError: for a value of the wrong type or out of range, or an absent GPU.
    """
    plain = read_options(_PlainOptions, OmegaConf.masked_copy(config, ["seed", "lock"]), "")
    arguments.seed("seed", plain.seed)
    if plain.lock not in LOCK_CHOICES:
        raise UserError(f"lock={plain.lock}: choose one of {', '.join(LOCK_CHOICES)}")
    logger_options(config)
    options = read_options(TrainerOptions, config.trainer, "trainer.")
    if options.precision not in _PRECISIONS:
        raise UserError(
            f"trainer.precision={options.precision}: choose one of {', '.join(_PRECISIONS)}"
        )
    if isinstance(options.compile, str) and options.compile not in COMPILE_MODES:
        raise UserError(
            f"trainer.compile={options.compile}: give true, false or one of "
            f"{', '.join(COMPILE_MODES)}"
        )
    if options.accelerator not in ("auto", "cpu", "gpu"):
        raise UserError(f"trainer.accelerator={options.accelerator}: choose auto, cpu or gpu")
    if options.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError(
            "trainer.accelerator=gpu, but torch sees no GPU here: use trainer.accelerator=cpu, or "
            "install a build of torch with CUDA and check its driver"
        )
    if options.precision == "16-mixed" and options.device.type == "cpu":
        raise UserError("trainer.precision=16-mixed needs a GPU: use bf16-mixed on a CPU")
    return options


def probe_options(config: DictConfig) -> ProbeOptions:
    """Read the `probe` node.

    Raises:
        UserError: for a value of the wrong type.
    """
    return read_options(ProbeOptions, config, "probe.")


def logger_options(config: DictConfig) -> LoggerOptions:
    """Read the `logger` node of a whole configuration; what has none shows nothing but the default.

    Raises:
        UserError: for a value of the wrong type, or that is unknown.
    """
    return read_options(LoggerOptions, config.get("logger") or DictConfig({}), "logger.")


def exploration_options(config: DictConfig) -> ExplorationOptions:
    """Read the `exploration` node.

    Raises:
        UserError: for a value of the wrong type.
    """
    return read_options(ExplorationOptions, config, "exploration.")


def read_options(kind: type[_Options], node: DictConfig, prefix: str) -> _Options:
    """Read a node as the options of a kind.

    Args:
        kind: a dataclass.
        node: its values.
        prefix: goes before a key in messages.

    Raises:
        UserError: for a value of the wrong type, or a key that is unknown or missing.
    """
    try:
        values = OmegaConf.to_container(node, resolve=True)
        read = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
    except OmegaConfBaseException as error:
        raise unresolved(error, prefix) from None
    assert isinstance(read, kind)
    return read
