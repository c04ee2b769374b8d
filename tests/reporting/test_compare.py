import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from scipy import stats

from rlkd.errors import UserError
from rlkd.reporting import Result
from rlkd.reporting.statistics.comparison import Cell, Comparison, compare_cells
from rlkd.reporting.statistics.paired_test import (
    PairedDifference,
    holm,
    paired_difference,
    t_quantile,
)

MakeResult = Callable[..., Result]
BASE = [0.7012, 0.6987, 0.7105, 0.7040]
OTHER = [0.7101, 0.7042, 0.7133, 0.7149]


def sweep(make: MakeResult, **accuracies: list[float | None]) -> list[Cell]:
    """One temperature a keyword, one seed a value; None is a run that was not made."""
    return [
        Cell(
            {"temperature": name},
            seed,
            None if top1 is None else make(top1, seed=seed),
        )
        for name, values in accuracies.items()
        for seed, top1 in enumerate(values)
    ]


def gap(comparison: Comparison, row: int) -> PairedDifference:
    difference = comparison.rows[row].difference
    assert difference is not None
    return difference


def test_interval_and_p_are_scipys() -> None:
    found = paired_difference(OTHER, BASE, range(4))
    oracle = stats.ttest_rel(OTHER, BASE)
    interval = oracle.confidence_interval(0.95)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert found.low == pytest.approx(interval.low, rel=1e-9)
    assert found.high == pytest.approx(interval.high, rel=1e-9)
    mirrored = paired_difference(BASE, OTHER, range(4))
    assert mirrored.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert mirrored.value == -found.value


def test_two_seeds_are_worked_by_hand() -> None:
    found = paired_difference([0.72, 0.74], [0.70, 0.70], [3, 5])
    # Differences 0.02 and 0.04: mean 0.03, sd 0.02 / sqrt(2), standard error 0.01, t = 3. With one
    # degree of freedom t is Cauchy: p = 1 - 2 atan(3) / pi, and its 97.5 % point is tan(0.475 pi).
    assert found.seeds == (3, 5)
    assert found.value == pytest.approx(0.03, rel=1e-9)
    assert found.p == pytest.approx(1 - 2 * math.atan(3) / math.pi, rel=1e-9)
    assert found.half_width == pytest.approx(0.01 * math.tan(0.475 * math.pi), rel=1e-9)


def test_three_seeds_are_worked_by_hand() -> None:
    found = paired_difference([0.71, 0.73, 0.75], [0.70, 0.71, 0.72], [0, 1, 2])
    # Differences 0.01, 0.02, 0.03: mean 0.02, sd 0.01, standard error 0.01 / sqrt(3), t = sqrt(12).
    # With two degrees of freedom F(t) = 1 / 2 + t / (2 sqrt(2 + t^2)), so p = 1 - sqrt(12 / 14),
    # and the 97.5 % point is 0.95 sqrt(2 / (1 - 0.95^2)) = 4.303.
    point = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    assert found.value == pytest.approx(0.02, rel=1e-9)
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-9)
    assert found.low == pytest.approx(0.02 - point * 0.01 / math.sqrt(3), rel=1e-9)
    assert found.high == pytest.approx(0.02 + point * 0.01 / math.sqrt(3), rel=1e-9)
    assert t_quantile(0.975, 2) == pytest.approx(point, rel=1e-9)


def test_one_seed_has_a_difference_and_no_verdict(make_result: MakeResult) -> None:
    comparison = compare_cells(sweep(make_result, constant=[0.70], ctkd=[0.72]))
    found = gap(comparison, 1)
    assert found.value == pytest.approx(0.02)
    assert (found.low, found.high, found.half_width, found.p) == (None, None, None, None)
    assert comparison.rows[1].verdict == "no verdict, one shared seed"
    assert comparison.rows[1].std is None


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ([0.2075, 0.7779, 0.711], "inside the noise: equal in every seed"),
        # All 0.0137, but as floats they differ in the last bit: a t-test would be certain.
        ([0.2212, 0.7916, 0.7247], "not tested: the same difference in every seed"),
    ],
)
def test_differences_that_do_not_vary_are_not_tested(
    make_result: MakeResult, other: list[float | None], verdict: str
) -> None:
    comparison = compare_cells(sweep(make_result, constant=[0.2075, 0.7779, 0.711], ctkd=other))
    assert (gap(comparison, 1).p, gap(comparison, 1).low) == (None, None)
    assert comparison.rows[1].verdict == verdict
    assert comparison.tested == []


def test_runs_without_any_spread_break_nothing(make_result: MakeResult) -> None:
    comparison = compare_cells(sweep(make_result, constant=[0.7, 0.7], ctkd=[0.7, 0.7]))
    assert [row.std for row in comparison.rows] == [0.0, 0.0]
    assert gap(comparison, 1).value == 0.0


def test_holm_is_worked_by_hand() -> None:
    # Ascending 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04. Corrected values
    # must not fall, so the last is raised to 0.06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_a_difference_is_called_by_its_corrected_p(make_result: MakeResult) -> None:
    base: list[float | None] = [0.70, 0.71, 0.72]
    # Differences 0.02, 0.021, 0.022: se = 0.001 / sqrt(3), t = 36.4, p = 0.00075.
    clear: list[float | None] = [0.72, 0.731, 0.742]
    # Differences -0.02, -0.025, -0.03: t = -8.66, p = 0.0131, enough alone and for three tests.
    worse: list[float | None] = [0.68, 0.685, 0.69]
    # Differences 0.001, -0.001, 0.003: t = 0.866.
    noise: list[float | None] = [0.701, 0.709, 0.723]
    cells = sweep(make_result, constant=base, ctkd=clear, random=worse, agent=noise)
    rows = compare_cells(cells).rows
    assert [row.verdict for row in rows] == [
        "baseline",
        "better",
        "worse",
        "inside the noise",
    ]
    p_of_worse = stats.ttest_rel(worse, base).pvalue
    assert gap(compare_cells(cells), 2).p_corrected == pytest.approx(2 * p_of_worse, rel=1e-9)
    crowd = {f"agent{i}": noise for i in range(3)}
    crowded = sweep(make_result, constant=base, random=worse, **crowd)
    # The same p = 0.0131 is the smallest of four: 0.0523 is inside the noise.
    assert compare_cells(crowded).rows[1].verdict == "inside the noise"


def test_mean_and_spread_are_of_all_runs_and_the_difference_of_shared_seeds(
    make_result: MakeResult,
) -> None:
    comparison = compare_cells(
        sweep(make_result, constant=[None, 0.70, 0.72], ctkd=[0.50, 0.71, 0.74])
    )
    base, other = comparison.rows
    assert (base.n, base.mean) == (2, pytest.approx(0.71))
    # Mean 1.95 / 3 = 0.65; deviations -0.15, 0.06, 0.09: squares 0.0342, over 2: 0.0171.
    assert (other.n, other.mean) == (3, pytest.approx(0.65))
    assert other.std == pytest.approx(math.sqrt(0.0171), rel=1e-9)
    # Seeds 1 and 2: 0.01 and 0.02.
    assert gap(comparison, 1).seeds == (1, 2)
    assert gap(comparison, 1).value == pytest.approx(0.015)
    assert other.verdict == "inside the noise (over 2 shared seeds)"
    assert base.verdict == "baseline; 1 of 3 not run"


def test_missing_and_failed_runs_are_told(make_result: MakeResult) -> None:
    cells = sweep(make_result, constant=[0.7, 0.71], ctkd=[None, None], random=[0.7, 0.72])
    cells[1] = replace(cells[1], result=None, failure="out of\nmemory")
    cells[4] = replace(cells[4], result=make_result(math.nan, seed=0))
    cells.append(Cell({"temperature": "agent"}, 0, failure="killed"))
    rows = compare_cells(cells).rows
    assert [row.verdict for row in rows] == [
        "baseline; 1 of 2 failed",
        "not run",
        "no seed shared with the baseline; 1 of 2 failed",
        "failed",
    ]
    assert [cell.state for cell in rows[0].cells] == ["done", "failed: out of memory"]
    assert rows[2].cells[0].state.startswith("failed: the run diverged")
    assert rows[1].mean is None
    assert rows[1].relative_speed is None


def test_speed_is_the_median_relative_to_the_baselines(make_result: MakeResult) -> None:
    speeds = {"constant": [900.0, 1000.0, 5000.0], "ctkd": [700.0, 800.0, math.nan]}
    cells = [
        Cell({"temperature": name}, seed, make_result(seed=seed, images_per_second=speed))
        for name, each in speeds.items()
        for seed, speed in enumerate(each)
    ]
    base, other = compare_cells(cells).rows
    assert (base.images_per_second, base.relative_speed) == (1000.0, 1.0)
    assert (other.images_per_second, other.relative_speed) == (750.0, 0.75)


def grid(make: MakeResult) -> list[Cell]:
    return [
        Cell({"method": method, "temperature": temperature}, seed, make(top1 + noise, seed=seed))
        for method, temperature, top1 in (
            ("kd", "constant", 0.70),
            ("kd", "ctkd", 0.71),
            ("dkd", "constant", 0.73),
            ("dkd", "ctkd", 0.75),
        )
        for seed, noise in enumerate((0.0, 0.002 if temperature == "ctkd" else 0.001))
    ]


@pytest.mark.parametrize(
    ("baseline", "names", "differences"),
    [
        (None, ["kd, constant"], [None, 0.0105, 0.03, 0.0505]),
        (
            {"temperature": "ctkd", "method": "dkd"},
            ["dkd, ctkd"],
            [-0.0505, -0.04, -0.0205, None],
        ),
        (
            {"temperature": "constant"},
            ["kd, constant", "dkd, constant"],
            [None, 0.0105, None, 0.0205],
        ),
    ],
)
def test_the_baseline_is_the_first_or_the_one_named_or_each_methods_own(
    make_result: MakeResult,
    baseline: Mapping[str, str] | None,
    names: list[str],
    differences: list[float | None],
) -> None:
    rows = compare_cells(grid(make_result), baseline).rows
    assert [row.name for row in rows if row.is_baseline] == names
    found = [row.difference.value if row.difference else None for row in rows]
    assert found == [each if each is None else pytest.approx(each) for each in differences]


@pytest.mark.parametrize(
    ("baseline", "told"),
    [
        ({"temperature": "agent"}, "'method=kd temperature=agent' is not among the combinations"),
        ({"student": "resnet20"}, "'student', which is not swept; choose from: method, temp"),
    ],
)
def test_a_baseline_that_is_not_there_is_the_users_to_mend(
    make_result: MakeResult, baseline: Mapping[str, str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        compare_cells(grid(make_result), baseline)


def test_runs_that_cannot_be_paired_are_the_users_to_mend(make_result: MakeResult) -> None:
    with pytest.raises(UserError, match="nothing to compare"):
        compare_cells([])
    cells = sweep(make_result, constant=[0.7, 0.7])
    with pytest.raises(UserError, match="'temperature=constant seed=1' occurs twice"):
        compare_cells([*cells, cells[1]])
    with pytest.raises(UserError, match=r"'temperature=constant seed=1' was made with seed 0"):
        compare_cells([replace(cells[1], result=make_result(seed=0))])
    with pytest.raises(UserError, match=r"'method=kd seed=0' does not have the swept keys"):
        compare_cells([*cells, Cell({"method": "kd"}, 0)])


def test_a_cell_has_a_result_or_a_failure(make_result: MakeResult) -> None:
    with pytest.raises(ValueError, match="not both"):
        Cell({}, 0, make_result(), failure="killed")
