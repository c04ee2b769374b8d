"""Processes that fill one store at one time."""

import errno
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import torch
from tests.teacher_cache.test_stored import Counting, epoch, made_images, opened
from torch import Tensor

from rlkd.teacher_cache import store
from rlkd.teacher_cache import stored as stored_module


def run_in_step(folder: str, others: int) -> None:
    """Fill a store in a process of its own, with others that began at one time; print the count."""
    place, live = Path(folder), Counting()

    def slow(image: Tensor) -> Tensor:
        time.sleep(0.02)
        return live(image)

    stored_module._AT_ONCE["cpu"] = 3  # two parts a batch
    stored = opened(place / "store", made_images(), slow)
    (place / f"{os.getpid()}.ready").touch()
    while len(list(place.glob("*.ready"))) < others:
        time.sleep(0.001)
    given = torch.cat([each for number in range(3) for each in epoch(stored, number)])
    print(live.images, hashlib.sha256(given.numpy().tobytes()).hexdigest())


def test_processes_that_want_the_same_rows_at_once_share_the_computing(tmp_path: Path) -> None:
    """As two runs of one seed side by side do: they once computed every row twice."""
    opened(tmp_path / "store", made_images(), Counting())
    code = f"from {__name__} import run_in_step; run_in_step({str(tmp_path)!r}, 2)"
    words = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    both = [Popen(words, stdout=PIPE, text=True, cwd=root) for _ in range(2)]
    (one, seen), (other, also_seen) = (each.communicate(timeout=120)[0].split() for each in both)
    assert seen == also_seen
    rows = opened(tmp_path / "store", made_images(), Counting()).store.records.count()
    assert rows <= int(one) + int(other) < 1.3 * rows


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN, errno.ENOLCK])
def test_rows_are_computed_where_no_lock_is_to_be_had(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems refuse locks as if another process had them: rows of 0 were then given."""
    expected = epoch(opened(tmp_path / "locked", made_images(), Counting()))

    def refused(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "lockf", refused)
    given = epoch(opened(tmp_path / "store", made_images(), Counting()))
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
        assert one.any(dim=1).all()


def test_a_store_that_another_process_has_just_made_is_no_foreign_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Path.iterdir

    def made_meanwhile(self: Path) -> Iterator[Path]:
        (tmp_path / store.IDENTITY).write_text("{}")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", made_meanwhile)
    store._require_own(tmp_path)
