import io
from collections.abc import Callable

import pytest
from rich.console import Console

from rlkd.errors import UserError
from rlkd.reporting import Result, Row, difference, print_table, summarise, to_markdown


def test_mean_and_spread_are_those_worked_by_hand(make_result: Callable[..., Result]) -> None:
    runs = [
        make_result(0.70, images_per_second=900.0),
        make_result(0.71, images_per_second=1000.0),
        make_result(0.75, images_per_second=1100.0),
    ]
    (row,) = summarise({"kd": runs})
    # mean 2.16 / 3 = 0.72; deviations -0.02, -0.01, 0.03; squares sum to 0.0014; over n - 1: 0.0007
    assert row.mean == pytest.approx(0.72, rel=1e-12)
    assert row.std == pytest.approx(0.0007**0.5, rel=1e-12)
    assert (row.label, row.n) == ("kd", 3)
    assert row.images_per_second == pytest.approx(1000.0)


def test_one_run_has_no_spread(make_result: Callable[..., Result]) -> None:
    (row,) = summarise({"kd": [make_result(0.7)]})
    assert (row.mean, row.std, row.n) == (0.7, None, 1)


def test_a_run_that_diverged_leaves_its_arm_without_figures(
    make_result: Callable[..., Result],
) -> None:
    rows = summarise({"kd": [make_result(0.7)] * 2, "bad": [make_result(float("nan"))] * 2})
    line = to_markdown(rows, baseline="kd").splitlines()[-1]
    assert line == "| bad | 2 | n/a | n/a | n/a | n/a | noise not known | 1,000 |"


def test_an_arm_without_runs_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="'kd' has no runs"):
        summarise({"kd": []})


def test_noise_is_twice_the_standard_error() -> None:
    base = Row("kd", 0.700, 0.003, 4, 1.0)
    # se = sqrt(0.003^2 / 4 + 0.004^2 / 4) = 0.005 / 2 = 0.0025, so the bound is 0.005
    near, far = Row("near", 0.7049, 0.004, 4, 1.0), Row("far", 0.7051, 0.004, 4, 1.0)
    assert difference(near, base).standard_error == pytest.approx(0.0025, rel=1e-12)
    assert difference(near, base).note == "inside the noise"
    assert difference(far, base).note == "beyond 2 se"
    assert difference(Row("low", 0.6949, 0.004, 4, 1.0), base).note == "beyond 2 se"


def test_nothing_is_said_of_noise_where_the_spread_is_not_known() -> None:
    gap = difference(Row("a", 0.8, None, 1, 1.0), Row("b", 0.7, 0.01, 3, 1.0))
    assert gap.standard_error is None
    assert gap.inside_noise is None
    assert gap.note == "noise not known"


ROWS = [Row("kd", 0.7, 0.003, 4, 1234.5), Row("a|b [red]", 0.7049, 0.004, 4, float("nan"))]


def test_markdown_shows_per_cent_with_two_decimals() -> None:
    assert to_markdown(ROWS, baseline="kd") == (
        "| arm | n | top-1, % | sd | difference | se | note | images/s |\n"
        "| :-- | --: | --: | --: | --: | --: | :-- | --: |\n"
        "| kd | 4 | 70.00 | 0.30 |  |  | baseline | 1,234 |\n"
        "| a\\|b [red] | 4 | 70.49 | 0.40 | +0.49 | 0.25 | inside the noise | n/a |\n"
    )


def test_the_comparison_is_left_out_where_there_is_no_baseline() -> None:
    assert "difference" not in to_markdown(ROWS)


def test_an_unknown_baseline_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match=r"baseline 'dkd' is not among the arms; choose one of: kd"):
        to_markdown(ROWS, baseline="dkd")


def test_the_terminal_shows_the_same_cells() -> None:
    console = Console(file=io.StringIO(), width=120)
    print_table(ROWS, "Digits [bold]", baseline="kd", console=console)
    assert isinstance(console.file, io.StringIO)
    told = console.file.getvalue()
    for words in ("Digits [bold]", "a|b [red]", "70.49", "+0.49", "inside the noise"):
        assert words in told
