"""The plain settings of a run, read with their types and ranges checked."""

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlkd.errors import UserError
from rlkd.exploration import Bands
from rlkd.training.compose import unresolved

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Torch's, by how much compiling time they trade for speed."""
_Options = TypeVar("_Options")


@dataclass
class TrainerOptions:
    """How long and on what a run trains; see configs/config.yaml."""

    epochs: int = 240
    max_steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    sync_batch_norm: bool = False
    precision: str = "32-true"
    channels_last: bool = False
    compile: bool | str = False
    accelerator: str = "auto"
    threads: int | None = None
    evaluate_every: int = 10
    validation_size: int = 0
    checkpoint_every_steps: int | None = 500
    checkpoint_every_minutes: float | None = 30.0
    keep_checkpoints: int = 2
    log_every_steps: int = 50

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
        return torch.channels_last if self.channels_last else torch.contiguous_format


@dataclass
class ProbeOptions:
    """What is held out to measure a reward on."""

    size: int = 0


@dataclass
class ExplorationOptions:
    """Which instances the agent learns from at first; see configs/config.yaml."""

    enabled: bool = False
    epochs: int = 20
    selected: float = 0.2
    mixed: list[float] = field(default_factory=lambda: [0.1, 0.2])
    partners: list[float] = field(default_factory=lambda: [0.4, 0.5])
    mix_weight: float = 0.7

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
class _SeedOptions:
    seed: int = 0


def trainer_options(config: DictConfig) -> TrainerOptions:
    """Read and check the trainer's options, and the seed that everything follows from.

    Raises:
        UserError: for a value of the wrong type or out of range, or an absent GPU.
    """
    read_options(_SeedOptions, OmegaConf.masked_copy(config, ["seed"]), "")
    options = read_options(TrainerOptions, config.trainer, "trainer.")
    for name in (
        "epochs",
        "batch_size",
        "accumulate",
        "evaluate_every",
        "log_every_steps",
        "keep_checkpoints",
    ):
        if getattr(options, name) < 1:
            raise UserError(f"trainer.{name}={getattr(options, name)}: give at least 1")
    minutes = options.checkpoint_every_minutes
    if minutes is not None and not minutes > 0:
        raise UserError(
            f"trainer.checkpoint_every_minutes={minutes}: give a number above 0, or null"
        )
    for name in ("max_steps", "checkpoint_every_steps", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"trainer.{name}={value}: give at least 1, or null")
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
        UserError: for a value of the wrong type, or an unknown key.
    """
    try:
        values = OmegaConf.to_container(node, resolve=True)
        read = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values))
    except OmegaConfBaseException as error:
        raise unresolved(error, prefix) from None
    assert isinstance(read, kind)
    return read
