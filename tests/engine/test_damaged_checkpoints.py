"""Checkpoints damaged in any way: told, set aside, and the one before taken."""

import errno
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.stored import (
    assert_listed_as_coreutils_do,
    filled,
    names,
    silent,
    step_of,
    taken_after,
)

from rlkd.engine.checkpoint_store import CheckpointStore
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.reporting import ImageCounts


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Holds the checkpoints of steps 6 and 9."""
    return filled(tmp_path / "checkpoints")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flipped(path: Path, seed: int = 0) -> None:
    draw, held = random.Random(seed), bytearray(path.read_bytes())
    held[draw.randrange(len(held))] ^= 1 << draw.randrange(8)
    path.write_bytes(held)


def unlisted(path: Path) -> None:
    sums = path.parent / "SHA256SUMS"
    sums.write_text(
        "".join(line for line in sums.read_text().splitlines(True) if path.name not in line)
    )


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WRONG_SUM = "is damaged (its SHA-256 is not the one in SHA256SUMS)"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, WRONG_SUM),
    "emptied": (emptied, WRONG_SUM),
    "lengthened": (lengthened, WRONG_SUM),
    "flipped": (flipped, WRONG_SUM),
    "unlisted": (unlisted, "is not listed in SHA256SUMS"),
    "unreadable": (made_a_folder, r"cannot be read (it is a folder, not a regular file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_set_aside_for_the_one_before(
    damage: str, store: CheckpointStore
) -> None:
    told: list[str] = []
    do, fault = DAMAGES[damage]
    do(store.place(9))
    damaged = store.place(9).read_bytes() if store.place(9).is_file() else None
    found = store.sound(told.append)
    (line,) = told
    assert line.startswith(f"{store.place(9)} {fault}")
    assert line.endswith(", set aside as step-9.ckpt.damaged: going on from step-6.ckpt")
    assert step_of(found) == 6
    assert found == store.newest
    assert names(store) == ["SHA256SUMS", "step-6.ckpt", "step-9.ckpt.damaged"]
    if damaged is not None:
        assert (store.folder / "step-9.ckpt.damaged").read_bytes() == damaged
    assert_listed_as_coreutils_do(store.folder)
    assert step_of(store.sound(silent)) == 6
    store.save(taken_after(9), 9, keep=2)
    assert step_of(store.sound(silent)) == 9


def test_a_missing_checkpoint_is_told(store: CheckpointStore) -> None:
    told: list[str] = []
    store.place(9).unlink()
    assert step_of(store.newest) == 6
    assert step_of(store.sound(told.append)) == 6
    assert told == [
        f"{store.place(9)} is missing, though SHA256SUMS lists it: going on from step-6.ckpt"
    ]
    assert step_of(store.sound(silent)) == 6


def test_each_of_several_damaged_ones_is_told(tmp_path: Path) -> None:
    store, told = filled(tmp_path, keep=3), list[str]()
    flipped(store.place(9))
    store.place(6).unlink()
    assert step_of(store.sound(told.append)) == 3
    assert [line.partition(" ")[0] for line in told] == [str(store.place(9)), str(store.place(6))]
    assert all(line.endswith("going on from step-3.ckpt") for line in told)


def test_any_bit_that_flips_in_a_checkpoint_is_found(store: CheckpointStore) -> None:
    whole = store.place(9).read_bytes()
    sums = (store.folder / "SHA256SUMS").read_bytes()
    for seed in range(100):
        store.place(9).write_bytes(whole)
        (store.folder / "SHA256SUMS").write_bytes(sums)
        flipped(store.place(9), seed)
        told: list[str] = []
        assert step_of(store.sound(told.append)) == 6
        assert len(told) == 1


def test_any_bit_that_flips_in_the_list_leaves_one_checkpoint(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    content = {each.name: each.read_bytes() for each in store.folder.iterdir()}
    sums = content["SHA256SUMS"]
    newer = range(8 * (len(sums) // 2), 8 * (len(sums) - 1))
    """The line of step 9 without its break; the lines are as long as one another."""
    for bit in range(0, 8 * len(sums), 3):
        for path in store.folder.iterdir():
            path.unlink()
        for name, held in content.items():
            (store.folder / name).write_bytes(held)
        hit = bytearray(sums)
        hit[bit // 8] ^= 1 << bit % 8
        (store.folder / "SHA256SUMS").write_bytes(hit)
        told: list[str] = []
        place = store.sound(told.append)
        assert place is not None
        assert place.name == ("step-6.ckpt" if bit in newer else "step-9.ckpt"), f"bit {bit}"
        assert bool(told) == (bit in newer), f"bit {bit}: {told}"


def test_without_the_list_nothing_is_trusted_until_somebody_does(store: CheckpointStore) -> None:
    (store.folder / "SHA256SUMS").unlink()
    before = names(store)
    with pytest.raises(UserError) as told:
        store.sound(silent)
    assert str(told.value) == (
        f"{store.folder / 'SHA256SUMS'} is missing, so that no checkpoint beside it can be checked:"
        " if you trust them, write it with `sha256sum step-*.ckpt > SHA256SUMS` in that folder; if "
        "not, remove the folder to begin again"
    )
    assert names(store) == before
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(store.folder.glob("step-*.ckpt"))
    ]
    (store.folder / "SHA256SUMS").write_text("".join(lines))
    assert step_of(store.sound(silent)) == 9


@pytest.mark.parametrize("digits", [19, 300, 5000])
def test_a_line_of_no_step_that_a_run_can_reach_counts_as_none(
    digits: int, store: CheckpointStore
) -> None:
    sums = store.folder / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  step-{'9' * digits}.ckpt\n{sums.read_text()}")
    assert step_of(store.sound(silent)) == 9


def test_a_list_that_is_no_file_is_named(store: CheckpointStore) -> None:
    sums = store.folder / "SHA256SUMS"
    sums.unlink()
    os.mkfifo(sums)
    told = r"cannot read .*SHA256SUMS \(it is a FIFO, .*\): put back a copy of it, or remove it$"
    with pytest.raises(UserError, match=told):
        store.sound(silent)
    with pytest.raises(UserError, match=told):
        _ = store.newest


def test_somebodys_files_beside_the_checkpoints_stay(store: CheckpointStore) -> None:
    for name in (".notes.tmp", ".step-x.ckpt.tmp", ".step-12.ckpt.tmp"):
        (store.folder / name).write_text("somebody's")
    assert step_of(store.sound(silent)) == 9
    assert [each for each in names(store) if each[0] == "."] == [".notes.tmp", ".step-x.ckpt.tmp"]


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_a_link_to_another_folder_in_a_run_is_refused(name: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / ".step-3.ckpt.tmp").write_text("somebody's")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / name).symlink_to(other)
    with pytest.raises(UserError, match=f"run/{name} is a link, .* put the folder itself in"):
        folder.claim("seed: 0", ImageCounts(1, 1, 1), "", show=silent)
    assert [each.name for each in other.iterdir()] == [".step-3.ckpt.tmp"]


def test_where_all_are_damaged_they_are_left_and_told(store: CheckpointStore) -> None:
    flipped(store.place(9))
    cut(store.place(6))
    before = {each.name: each.read_bytes() for each in store.folder.iterdir()}
    with pytest.raises(UserError) as told:
        store.sound(silent)
    assert str(told.value) == (
        f"no checkpoint in {store.folder} is sound (step-9.ckpt {WRONG_SUM}; step-6.ckpt "
        f"{WRONG_SUM}): put back a copy of one with its SHA256SUMS, or remove the folder to begin "
        "again"
    )
    assert {each.name: each.read_bytes() for each in store.folder.iterdir()} == before


def test_a_run_begins_where_there_is_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.sound(silent) is None
    assert store.newest is None
    assert not store.folder.exists()


def test_a_folder_that_may_not_be_written_to_is_told(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    flipped(store.place(9))

    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(UserError, match=r"cannot put .*checkpoints in order \(.*Permission denied"):
        store.sound(silent)
