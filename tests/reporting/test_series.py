import math
from collections.abc import Callable
from pathlib import Path

import pytest

from rlkd.reporting import Result, RunRecord
from rlkd.reporting.series import epochs_of, over_seeds


@pytest.fixture
def runs(make_result: Callable[..., Result]) -> list[RunRecord]:
    first = [{"epoch": 1.0, "a": 1.0}, {"epoch": 2.0, "a": 2.0}, {"epoch": 3.0}]
    second = [{"epoch": 1.0, "a": 4.0}, {"epoch": 2.0, "a": math.nan}, {"a": 9.0}]
    return [RunRecord(Path("run"), make_result(), rows, None) for rows in (first, second)]


def test_an_epoch_counts_the_runs_that_know_it(runs: list[RunRecord]) -> None:
    found = over_seeds(runs, "a")
    assert found.epoch == [1.0, 2.0]
    assert found.mean == [2.5, 2.0]
    assert (found.low, found.high) == ([1.0, 2.0], [4.0, 2.0])


def test_a_column_that_no_run_has_is_empty(runs: list[RunRecord]) -> None:
    assert over_seeds(runs, "b").epoch == []


def test_the_last_epochs_and_a_scale_keep_the_figures_together(runs: list[RunRecord]) -> None:
    found = over_seeds(runs, "a").since(2.0).scaled(100.0)
    assert (found.epoch, found.mean, found.low, found.high) == ([2.0], [200.0], [200.0], [200.0])


def test_epochs_are_those_of_any_run(runs: list[RunRecord]) -> None:
    assert epochs_of(runs) == [1.0, 2.0, 3.0]
