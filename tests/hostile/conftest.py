"""One process that hostile inputs are tried in, each in a fork of it."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from benchmarks.hostile.found import FOUND
from benchmarks.hostile.kinds import KINDS
from benchmarks.hostile.runner import Runner
from benchmarks.hostile.verdict import Verdict
from tests.hostile.awful import AWFUL

Try = Callable[[str, int], Verdict]

LIMIT = 60.0
"""Seconds, for a machine that has other things to do; `benchmarks/fuzz.py` has 10."""


def _tried(folder: Path, kind: str, seed: int) -> Verdict:
    limit = 1.0 if kind in AWFUL else LIMIT
    runner = Runner(folder, limit=limit, kinds={**KINDS, **FOUND, **AWFUL})
    return next(runner.run(kind, [seed]))


@pytest.fixture(scope="package")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Try]:
    """Try an input, by its kind and seed; this process has computed, so that none forks from it."""
    folder, spawn = tmp_path_factory.mktemp("hostile"), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        yield lambda kind, seed: pool.submit(_tried, folder, kind, seed).result()
