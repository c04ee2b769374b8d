import math
from pathlib import Path

import pytest

from rlkd.errors import UserError
from rlkd.reporting import read_metrics, write_metrics


def test_columns_are_the_union_in_the_order_first_met(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_metrics(path, [{"epoch": 1, "b": 0.5}, {"epoch": 2, "a": 3.0, "b": math.nan}])
    assert path.read_text() == "epoch,b,a\n1,0.5,\n2,,3\n"


def test_what_is_not_known_stays_not_known(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_metrics(path, [{"epoch": 1, "test/top1": math.nan}, {"epoch": 2, "test/top1": 0.5}])
    assert read_metrics(path) == [{"epoch": 1.0}, {"epoch": 2.0, "test/top1": 0.5}]


def test_figures_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    row = {"epoch": 1.0, "x": 0.1 + 0.2, "y": 1.0 / 3e7, "z": -1e300}
    write_metrics(path, [row])
    assert read_metrics(path) == [row]


def test_a_run_without_epochs_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_metrics(path, [])
    assert read_metrics(path) == []


def test_a_word_in_a_cell_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,test/top1\n1,0.5\n2,high\n")
    with pytest.raises(UserError, match='line 3, column "test/top1" holds "high"'):
        read_metrics(path)


def test_a_row_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,test/top1\n1\n")
    with pytest.raises(UserError, match="line 2 has 1 cells, the header 2"):
        read_metrics(path)


def test_a_missing_file_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_metrics(tmp_path / "metrics.csv")
