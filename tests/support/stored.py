"""Stores of small checkpoints that can be told apart, and what must hold of any."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from rlkd.engine.checkpoint_store import CheckpointStore

STEPS = (3, 6, 9)


def taken_after(step: int) -> dict[str, Any]:
    return {"global_step": step, "weights": torch.arange(step * 10, step * 10 + 5)}


def filled(folder: Path, *, keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(folder)
    for step in STEPS:
        store.save(taken_after(step), step, keep=keep)
    return store


def names(store: CheckpointStore) -> list[str]:
    return sorted(each.name for each in store.folder.iterdir())


def silent(line: str) -> None:
    pytest.fail(f"told: {line}")


def step_of(place: Path | None) -> int:
    """Return the step that a checkpoint was taken after, having seen that it is all there."""
    if place is None:
        return 0
    held = torch.load(place, weights_only=True)
    assert torch.equal(held["weights"], taken_after(held["global_step"])["weights"])
    return held["global_step"]


def assert_listed_as_coreutils_do(folder: Path) -> None:
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.glob("step-*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    ]
    assert (folder / "SHA256SUMS").read_text() == "".join(lines)


def assert_nothing_but_sound_ones(store: CheckpointStore) -> None:
    there = {name for name in names(store) if name != "SHA256SUMS"}
    assert all(name.startswith("step-") for name in there)
    sums = store.folder / "SHA256SUMS"
    listed = sums.read_text().splitlines() if sums.is_file() else []
    right = {
        f"{hashlib.sha256((store.folder / name).read_bytes()).hexdigest()}  {name}"
        for name in there
    }
    assert right <= set(listed)
