"""The files of logits: whole rows or none, the first that comes stays."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkd.teacher_cache.records import CHECKS, LOGITS, Records, sizes

ROWS, COLUMNS = 50, 7


def made(folder: Path, dtype: str = "<f2", *, writable: bool = True) -> Records:
    kind = np.dtype(dtype)
    for path, size in sizes(folder, rows=ROWS, columns=COLUMNS, dtype=kind).items():
        if not path.exists():
            path.write_bytes(b"")
            os.truncate(path, size)
    return Records(folder, rows=ROWS, columns=COLUMNS, dtype=kind, writable=writable)


def values(count: int, seed: int = 0, dtype: str = "<f2") -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(count, COLUMNS)).astype(dtype)


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_rows_are_read_as_they_were_written_by_whoever_opens_the_files(
    tmp_path: Path, dtype: str
) -> None:
    records, rows = made(tmp_path, dtype), np.array([3, 4, 5, 30, 0])
    records.write(rows, values(5, dtype=dtype))
    for reader in (records, made(tmp_path, dtype, writable=False)):
        held, there = reader.read(np.array([5, 6, 0, 3]))
        assert there.tolist() == [True, False, True, True]
        np.testing.assert_array_equal(held[there], values(5, dtype=dtype)[[2, 4, 0]])
    assert records.count() == 5
    assert records.marked().tolist() == [0, 3, 4, 5, 30]


def test_a_row_of_zeros_and_one_that_is_not_finite_are_there_once_written(tmp_path: Path) -> None:
    records = made(tmp_path)
    given = np.zeros((2, COLUMNS), "<f2")
    given[1, :3] = np.nan, np.inf, -0.0
    records.write(np.array([8, 9]), given)
    held, there = records.read(np.array([8, 9, 10]))
    assert there.tolist() == [True, True, False]
    assert held[:2].tobytes() == given.tobytes()


def test_the_first_row_stays_and_one_twice_in_a_batch_is_one(tmp_path: Path) -> None:
    records = made(tmp_path)
    records.write(np.array([2, 2, 1]), values(3))
    records.write(np.array([1, 2, 3]), values(3, seed=1))
    held, there = records.read(np.array([1, 2, 3]))
    assert there.all()
    np.testing.assert_array_equal(
        held, np.stack([values(3)[2], values(3)[0], values(3, seed=1)[2]])
    )


@pytest.mark.parametrize("name", [LOGITS, CHECKS])
def test_no_flipped_bit_is_read_as_a_row(tmp_path: Path, name: str) -> None:
    records = made(tmp_path)
    records.write(np.arange(ROWS), values(ROWS))
    content = (tmp_path / name).read_bytes()
    width = len(content) // ROWS
    generator = np.random.default_rng(2)
    for bit in generator.choice(8 * len(content), 300, replace=False):
        spoilt = bytearray(content)
        spoilt[bit // 8] ^= 1 << bit % 8
        (tmp_path / name).write_bytes(spoilt)
        _, there = made(tmp_path).read(np.arange(ROWS))
        assert np.flatnonzero(~there).tolist() == [bit // 8 // width]
    again = made(tmp_path)
    (found,) = again.damaged()
    assert len(found) == 1
    again.write(np.arange(ROWS), values(ROWS))
    held, there = again.read(np.arange(ROWS))
    assert there.all()
    assert held.tobytes() == values(ROWS).tobytes()


def test_a_row_in_the_place_of_another_is_none(tmp_path: Path) -> None:
    records = made(tmp_path)
    records.write(np.array([1, 2]), values(2))
    for path, width in ((tmp_path / LOGITS, 2 * COLUMNS), (tmp_path / CHECKS, 4)):
        content = path.read_bytes()
        path.write_bytes(content[:width] + content[2 * width :] + content[-width:])
    _, there = made(tmp_path).read(np.arange(ROWS))
    assert not there.any()


@pytest.mark.parametrize("name", [LOGITS, CHECKS])
@pytest.mark.parametrize("more", [-1, 1])
def test_files_of_another_length_are_refused(tmp_path: Path, name: str, more: int) -> None:
    made(tmp_path)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size + more)
    with pytest.raises(ValueError, match=f"{name} has .* bytes, not"):
        made(tmp_path)


def _write(folder: str, seed: int) -> None:
    records = made(Path(folder))
    order = np.random.default_rng(seed).permutation(ROWS)
    for row in order:
        records.write(np.array([row]), values(1, seed=seed))


def test_processes_that_write_the_same_rows_at_once_leave_whole_ones(tmp_path: Path) -> None:
    made(tmp_path)
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_write, args=(str(tmp_path), seed)) for seed in range(4)]
    for each in writers:
        each.start()
    reader = made(tmp_path, writable=False)
    first: dict[int, bytes] = {}
    while any(each.is_alive() for each in writers):
        held, there = reader.read(np.arange(ROWS))
        for row in np.flatnonzero(there):
            assert first.setdefault(int(row), held[row].tobytes()) == held[row].tobytes()
    for each in writers:
        each.join()
        assert each.exitcode == 0
    held, there = reader.read(np.arange(ROWS))
    whole = {values(1, seed=seed).tobytes() for seed in range(4)}
    assert there.all()
    assert {each.tobytes() for each in held} <= whole


def test_rows_are_counted_in_a_copy_since_other_processes_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # numpy's own refusal: "number of non-zero array elements changed during function execution".
    records, looked = made(tmp_path), np.flatnonzero

    def of_its_own(array: NDArray[Any]) -> NDArray[Any]:
        assert not np.shares_memory(array, records._check)
        return looked(array)

    records.write(np.array([3, 8]), values(2))
    monkeypatch.setattr(np, "flatnonzero", of_its_own)
    assert records.marked().tolist() == [3, 8]
    assert [rows.tolist() for rows in records.damaged()] == [[]]
