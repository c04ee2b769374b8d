"""What there is on a machine: versions, devices, threads, data and disk."""

import os
import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from rlkd.config.compose import configure
from rlkd.engine.shared_data import load
from rlkd.errors import UserError, one_line
from rlkd.reporting import versions
from rlkd.reporting.escaping import say
from rlkd.reporting.results.environment import processor, usable_cores

Findings = dict[str, dict[str, Any]]
"""Section to name to what was found; None for what is not there."""
_GIB = 2**30
_EXTRA = re.compile(r"""^([\w.-]+).*\bextra\s*==\s*["']([\w-]+)["']""")
"""A package and the extra that asks for it, in a requirement of this one."""


def doctor(overrides: list[str], console: Console) -> Findings:
    """Say what there is here. What is absent is a finding too, and no failure.

    Args:
        overrides: settings as of a run, whose data and folder are looked at.
        console: where to print.

    Returns:
        What was found. Memory and disks are in GiB, images are counted.

    Raises:
        UserError: if the settings make no configuration.
    """
    config = configure(overrides)
    found: Findings = {
        "versions": dict(versions()),
        "extras": _extras(),
        "devices": {"processor": processor(), "memory, GiB": _memory()} | _gpus(),
        "threads": {
            "cores": usable_cores(),
            "torch": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "data": _data(config),
        "disk": _disk(Path(config.output)),
    }
    for section, held in found.items():
        say(console, section)
        for name, value in held.items():
            absent = f"not installed: {_remedy(name)}" if section == "extras" else "none"
            say(console, f"  {name:<22} {absent if value is None else value}")
    return found


def _remedy(extra: str) -> str:
    return f"pip install {' '.join(package for package, each in _asked() if each == extra)}"


def _extras() -> dict[str, str | None]:
    """Return the extras of this package, each with what it brings; None where a part is absent."""
    found: dict[str, str | None] = {}
    for package, extra in _asked():
        if extra == "dev":
            continue
        try:
            words = f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            found[extra] = None
            continue
        before = found.setdefault(extra, "")
        found[extra] = before if before is None else ", ".join(filter(None, (before, words)))
    return found


def _asked() -> list[tuple[str, str]]:
    try:
        given = metadata.requires("rlkd") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        given = []
    matches = map(_EXTRA.match, given)
    return [(each[1], each[2]) for each in matches if each is not None]


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1)
    except (AttributeError, ValueError, OSError):  # of a system that does not say
        return None


def _gpus() -> dict[str, Any]:
    """Return what each GPU is, and whether it computes."""
    found: dict[str, Any] = {"CUDA of torch": torch.version.cuda}
    found |= {"MPS": "Apple's GPU"} if torch.backends.mps.is_available() else {}
    for number in range(torch.cuda.device_count()):
        name = f"GPU {number}"
        try:
            properties = torch.cuda.get_device_properties(number)
            size = f"{properties.total_memory / _GIB:.1f} GiB"
            torch.ones(2, device=f"cuda:{number}").sum().item()
            found[name] = f"{properties.name}, {size}, sm_{properties.major}{properties.minor}"
        except RuntimeError as error:
            found[name] = f"does not compute: {one_line(error)}"
    return found


def _data(config: DictConfig) -> dict[str, Any]:
    """Return what the data are that the configuration names, or why there are none."""
    found: dict[str, Any] = {"name": config.chosen.data}
    if "download" in config.data:
        config.data.download = False  # to look is not to fetch
    try:
        data = load(config)
        found |= {"training images": len(data.train), "test images": len(data.test)}
        found["classes"] = len(data.train.class_names)
    except UserError as error:
        found["not found"] = str(error)
    return found


def _disk(output: Path) -> dict[str, Any]:
    """Return what is free where runs are written and where temporary files are."""
    there = next(each for each in (output.absolute(), *output.absolute().parents) if each.is_dir())
    found: dict[str, Any] = {"runs are written to": str(output)}
    for name, place in (("runs", there), ("temporary files", Path(tempfile.gettempdir()))):
        found[f"{name}, free GiB"] = round(shutil.disk_usage(place).free / _GIB, 1)
        if not os.access(place, os.W_OK):
            found[f"{name}, fault"] = f"{place} cannot be written to"
    return found
