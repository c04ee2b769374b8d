"""Runs small enough for a test: 48 digits, 3 batches an epoch, 3 epochs, a tiny student."""

import csv
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from rlkd import models
from rlkd.cli import main
from rlkd.config.compose import configure
from rlkd.data import digits as handwritten
from rlkd.engine.run_folder import RunFolder
from rlkd.losses import Objective
from rlkd.reporting import PolicyMap
from rlkd.tasks.classification.forward import ClassifierForward

TINY = (
    "data.limit=48",
    "trainer.epochs=3",
    "trainer.batch_size=16",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "trainer.evaluate_every=1",
    "scheduler=multistep",
)
LEARNING = ("temperature.warmup_epochs=1", "exploration.epochs=1")
SOURCES: dict[str, tuple[str, ...]] = {
    "constant": ("temperature=constant",),
    "random": ("temperature=random", "temperature.warmup_epochs=1"),
    "rlkd": (
        "temperature=rlkd",
        "data.limit=64",
        "probe.size=16",
        "temperature.update_interval=1",
        "temperature.probe_interval=2",
        "temperature.metric=loss",
        "temperature.calibration=additive",
        *LEARNING,
    ),
    "rlkd, looking ahead": (
        *("temperature=rlkd", "temperature.reward_source=look_ahead", "data.limit=64"),
        *("probe.size=16", "temperature.probe_interval=2", *LEARNING),
    ),
    "rlkd, seeing more": (
        *("temperature=rlkd", "temperature.reward_source=look_ahead"),
        *("probe.source=upcoming", "temperature.probe_interval=2", *LEARNING),
        *("temperature.state=extended", "temperature.two_actions=true"),
    ),
    "greedy look-ahead": ("temperature=look_ahead", "data.limit=64", "probe.size=16"),
    "rlkd_paper": (
        "temperature=rlkd_paper",
        "temperature.update_interval=2",
        "temperature.calibration=recurrent",
        *LEARNING,
    ),
    "ctkd, with a memory bank": ("temperature=ctkd", "method=crd"),
    "standardised, two views": ("temperature=standardised", "method=mlkd"),
    "entropy, with heads": ("temperature=entropy", "method=reviewkd"),
}
"""A run of each source: one epoch of warm-up, one explored."""


Ready = Callable[..., tuple[Objective, ClassifierForward]]
"""Makes an objective of terms, and what calls a small pair of networks for it."""


@contextmanager
def as_users_call() -> Iterator[None]:
    """Leave out the test run's type checks, which hold that 4 is no float; read digits once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    jaxtyping.config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(handwritten, "load_digits", digits_once)
        yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


digits_once = cache(handwritten.load_digits)


def write_teacher(path: Path) -> Path:
    """Write a convnet_small for digits that has learnt nothing: its logits differ, no more."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.create("convnet_small", num_classes=10, in_channels=1)
    for parameter in network.parameters():
        parameter.data *= 3
    torch.save({"model": network.state_dict(), "accuracy": 8.61}, path)
    return path


def silent() -> Console:
    return Console(file=io.StringIO(), width=1000)


def tiny(teacher: Path, output: Path, *more: str) -> list[str]:
    """The overrides of a tiny run; a later one replaces an earlier one of the same key."""
    given = [*TINY, f"teacher.checkpoint='{teacher}'", f"output='{output}'", *more]
    return list({each.partition("=")[0]: each for each in given}.values())


def tiny_config(teacher: Path, output: Path, *more: str) -> DictConfig:
    return configure(tiny(teacher, output, *more))


def metrics_but_time(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        del row["images_per_second"], row["time/data_share"]
    return rows


def assert_same_figures(found: RunFolder, expected: RunFolder) -> None:
    """Compare what two runs counted that differ by rounding, which may move a row or two."""
    ours, theirs = metrics_but_time(found.metrics), metrics_but_time(expected.metrics)
    assert [each.keys() for each in ours] == [each.keys() for each in theirs]
    for row, other in zip(ours, theirs, strict=True):
        counted = {name for name in other if name.startswith(("train/", "temperature/"))}
        assert {"train/loss", "train/accuracy", "temperature/p50"} <= counted
        for name in counted:
            bound = 0.1 if name == "train/accuracy" else 1e-3
            value = pytest.approx(float(other[name]), rel=0.02, abs=bound)
            assert float(row[name]) == value, name
    instances = [sum(map(sum, PolicyMap.read(each.policy).count)) for each in (found, expected)]
    assert instances[0] == instances[1] > 0  # none left out, and none twice


def fingerprint(folder: Path) -> dict[str, str]:
    """The content of every file of a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class DroppingStudent(nn.Module):
    """Draws from torch's global generator at every step."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * in_channels, 8), nn.Dropout(), nn.Linear(8, num_classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def command(arguments: list[str], output: Path) -> None:
    """Be the command line, in a process of one's own; what it prints goes to two files."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
    sys.dont_write_bytecode = True  # a limit on files would cut it short, for every later process
    sys.exit(main(arguments))
