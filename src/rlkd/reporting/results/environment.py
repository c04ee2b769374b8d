"""The machine and the packages that a run used, in words."""

import os
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("rlkd", "torch", "torchvision", "lightning")


def hardware() -> str:
    """Describe the machine: processor, cores that this process may use, accelerators."""
    cores = usable_cores()
    machine = f"{processor()}, {cores} {'core' if cores == 1 else 'cores'}"
    return f"{machine}; {_accelerators()}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the figures depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown processor"


def _accelerators() -> str:
    if torch.cuda.is_available():
        names = Counter(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in names.items())
    if torch.backends.mps.is_available():
        return "Apple GPU (MPS)"
    return "no GPU"
