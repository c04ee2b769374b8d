"""A folder of checkpoints, cut off at any instant and short of space at any."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.stored import (
    STEPS,
    assert_listed_as_coreutils_do,
    assert_nothing_but_sound_ones,
    filled,
    names,
    silent,
    step_of,
    taken_after,
)

from rlkd.engine.checkpoint_store import CheckpointStore
from rlkd.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Holds the checkpoints of steps 6 and 9."""
    return filled(tmp_path / "checkpoints")


@pytest.mark.parametrize(("keep", "kept"), [(1, [9]), (2, [6, 9]), (3, [3, 6, 9]), (4, [3, 6, 9])])
def test_the_last_few_are_kept_and_listed(keep: int, kept: list[int], tmp_path: Path) -> None:
    store = filled(tmp_path, keep=keep)
    assert names(store) == ["SHA256SUMS", *(f"step-{step}.ckpt" for step in kept)]
    assert_listed_as_coreutils_do(tmp_path)
    assert step_of(store.sound(silent)) == step_of(store.newest) == 9


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_coreutils_check_the_folder(store: CheckpointStore) -> None:
    def check() -> int:
        command = ["sha256sum", "--check", "--strict", "--status", "SHA256SUMS"]
        return subprocess.run(command, cwd=store.folder, check=False).returncode

    assert check() == 0
    store.place(6).write_bytes(b"x")
    assert check() == 1


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (8, 9, 10, 100):
        store.save(taken_after(step), step, keep=3)
    assert names(store) == ["SHA256SUMS", "step-10.ckpt", "step-100.ckpt", "step-9.ckpt"]
    assert step_of(store.sound(silent)) == 100


@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_at_any_instant_leaves_the_old_checkpoint_or_the_new_one(
    keep: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, left = tmp_path / "checkpoints", tmp_path / "left"
    left.mkdir()
    instants: list[int] = []
    """The step that was being saved, for each copy of the folder."""
    saving = 0

    def photographed(act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            for moment in ("before", "after"):
                if folder.is_dir():
                    shutil.copytree(folder, left / str(len(instants)))
                    instants.append(saving)
                if moment == "before":
                    done = act(*arguments, **options)
            return done

        return wrapped

    def halfway(checkpoint: Any, file: Any) -> None:
        torch_save(checkpoint, file)
        file.flush()
        whole = Path(file.name).read_bytes()
        shutil.copytree(folder, left / str(len(instants)))
        (left / str(len(instants)) / Path(file.name).name).write_bytes(whole[: len(whole) // 2])
        instants.append(saving)

    torch_save, store = torch.save, CheckpointStore(folder)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", halfway)
        for name in ("fsync", "replace", "unlink"):
            patched.setattr(os, name, photographed(getattr(os, name)))
        for saving in STEPS:
            store.save(taken_after(saving), saving, keep=keep)
    found: set[tuple[int, int]] = set()
    for number, saving in enumerate(instants):
        survivor = CheckpointStore(left / str(number))
        step = step_of(survivor.sound(silent))
        assert step in (saving - 3, saving), f"instant {number}"
        found.add((saving, step))
        assert_nothing_but_sound_ones(survivor)
        survivor.save(taken_after(saving + 3), saving + 3, keep=keep)
        assert step_of(survivor.sound(silent)) == saving + 3
        assert len(names(survivor)) <= 1 + keep
    assert found == {(3, 0), (3, 3), (6, 3), (6, 6), (9, 6), (9, 9)}
    assert len(instants) > 40


FULL = OSError(errno.ENOSPC, "No space left on device")
ACTS = {"save": (torch, 1), "fsync": (os, 6), "replace": (os, 3), "unlink": (os, 1)}
"""What saving does to the folder, and how often."""


@pytest.mark.parametrize(
    ("name", "call"), [(name, call) for name, (_, calls) in ACTS.items() for call in range(calls)]
)
def test_a_failure_at_any_step_of_saving_is_told_and_harms_nothing(
    name: str, call: int, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _ = ACTS[name]
    act, done = getattr(module, name), 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done == call + 1:
            raise FULL
        return act(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, failing)
        try:
            store.save(taken_after(12), 12, keep=2)
        except UserError as error:
            told = str(error)
        else:
            told = None
    assert done > call, f"{name} is called {done} times"
    if told is not None:
        assert told.startswith(f"cannot save the checkpoint {store.place(12)} (")
        assert "No space left on device" in told
    step = step_of(store.sound(silent))
    assert step in (9, 12)
    assert step == 12 or told is not None
    assert_nothing_but_sound_ones(store)
    store.save(taken_after(15), 15, keep=2)
    assert step_of(store.sound(silent)) == 15
