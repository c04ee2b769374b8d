"""The charts as a reader of SVG finds them: words, places, notes under the mouse."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from tests.hostile.nasty import NASTY
from tests.reporting.conftest import Arms

from rlkd.reporting import PolicyMap, Result, RunRecord, charts
from rlkd.reporting.charts import over_seeds
from rlkd.reporting.escaping import printable
from rlkd.reporting.plotting import (
    PALETTE,
    Curve,
    Line,
    heat,
    name_ends,
    plain,
    plot,
    short,
    spread,
    svg,
)
from rlkd.reporting.results.scores import Scores
from rlkd.reporting.statistics.comparison import Cell, compare_cells

SVG = "{http://www.w3.org/2000/svg}"


def line(*values: float, label: str = "kd") -> Line:
    epochs, figures = np.arange(1.0, len(values) + 1), np.array(values)
    return Line(label, Curve(epochs, figures, figures - 1, figures + 1), PALETTE[0])


def drawn(*lines: Line, named: bool = True) -> str:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        plot(axes, lines, "accuracy, %", "<kd>", level=("teacher", 9.0))
        if named:
            name_ends(axes, lines, 300.0)

    return svg("a < b", (400.0, 300.0), draw)


def words(chart: str) -> list[str | None]:
    return [each.text for each in ElementTree.fromstring(chart).iter(f"{SVG}text")]


def notes(chart: str) -> list[str | None]:
    """What is shown where the mouse points."""
    return [each.text for each in ElementTree.fromstring(chart).iter(f"{SVG}title")][1:]


def test_the_only_epoch_stands_on_its_axis_once() -> None:
    axes = Figure().subplots()
    plot(axes, [line(0.5)], "accuracy, %")
    axes.figure.draw_without_rendering()  # pyright: ignore[reportAttributeAccessIssue]
    low, high = axes.get_xlim()
    ticks = axes.xaxis.get_major_ticks()
    assert [each.label1.get_text() for each in ticks if low <= each.get_loc() <= high] == ["1"]


def test_a_chart_names_everything_it_shows() -> None:
    chart = drawn(line(2.0, 3.0, 4.0, label="kd & co"))
    assert {"<kd>", "kd & co", "accuracy, %", "epoch", "teacher"} <= {*words(chart)}
    assert "kd & co" not in words(drawn(line(2.0, 4.0, label="kd & co"), named=False))


def test_a_chart_is_an_element_that_says_what_it_shows_and_is_the_same_every_time() -> None:
    chart = drawn(line(2.0, 4.0))
    root = ElementTree.fromstring(chart)
    assert (root.attrib["viewBox"], root.attrib["width"]) == ("0 0 400 300", "400")
    assert (root[0].text, root.attrib["aria-label"]) == ("a < b", "a < b")
    assert chart == drawn(line(2.0, 4.0))
    assert "20" + "26-" not in chart


def test_lines_rise_with_their_values_in_round_limits() -> None:
    figure = Figure((4, 3))
    axes = figure.subplots()
    plot(axes, [line(2.3, 4.1)], "T")
    low, high = axes.get_ylim()
    assert low < 1.3
    assert high > 5.1
    assert axes.get_xlim() == (1.0, 2.0)
    assert list(axes.lines[0].get_ydata()) == [2.3, 4.1]


@pytest.mark.parametrize("value", [0.0, 4.0, -3.0, 1e-7, 1e9])
def test_a_constant_and_one_epoch_alone_still_have_axes(value: float) -> None:
    axes = Figure((4, 3)).subplots()
    plot(axes, [line(value)], "x")
    low, high = axes.get_ylim()
    assert low < value < high
    assert axes.get_xlim() == (0.5, 1.5)


def test_a_heat_map_hatches_what_it_does_not_know(policy: PolicyMap) -> None:
    def draw(figure: Figure) -> None:
        heat(figure.subplots(), policy, ScalarMappable(Normalize(2.0, 8.0), "YlGnBu"), "kd")

    chart = svg("t", (500.0, 400.0), draw)
    assert chart.count("<pattern") == 1
    assert notes(chart) == [
        "4.00 over 3 instances",
        "no instance",
        "2.00 over 1 instances",
        "8.00 over 2 instances",
    ]
    assert {"student confidence, probability of its top class", "teacher confidence", "mean T",
            "4.0", "0.5"} <= {*words(chart)}  # fmt: skip
    axes = Figure((5, 4)).subplots()
    heat(axes, policy, ScalarMappable(Normalize(2.0, 8.0), "YlGnBu"), "kd")
    # rows are drawn upwards: the last row of the grid stands above the first
    assert [box.get_xy() for box in axes.patches] == [(0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)]  # pyright: ignore[reportAttributeAccessIssue]


def test_labels_move_apart_no_further_than_they_must() -> None:
    assert spread([10.0, 50.0], 16.0, 0.0, 100.0) == [10.0, 50.0]
    # two at one place share the way: 8 up, 8 down
    assert spread([50.0, 50.0], 16.0, 0.0, 100.0) == [42.0, 58.0]
    assert spread([99.0, 100.0], 16.0, 0.0, 100.0) == [84.0, 100.0]
    assert spread([0.0, 1.0], 16.0, 0.0, 100.0) == [0.0, 16.0]


def test_long_names_are_cut_and_small_numbers_are_short() -> None:
    assert plain("abcdef", 4) == "abc…"
    assert plain("abcd", 4) == "abcd"
    assert [short(value) for value in (0.0, 2.1e-9, 1e-5, -3e-4)] == [
        "0", "2\N{MULTIPLICATION SIGN}10⁻⁹", "10⁻⁵", "-3\N{MULTIPLICATION SIGN}10⁻⁴",
    ]  # fmt: skip


def test_arms_stay_apart_beyond_the_palette(arms: Arms) -> None:
    many = {f"arm {i}": arms["rlkd"] for i in range(2 * len(PALETTE))}
    chart = charts.headline(many, Scores).svg or ""
    styles = re.findall(r'style="fill: none; ([^"]*stroke-width: 1.8[^"]*)"', chart)
    assert len(set(styles)) == len(styles) == 2 * len(PALETTE)


def test_hostile_names_are_drawn_as_they_are_spelled(
    arms: Arms, make_result: Callable[..., Result]
) -> None:
    hostile = dict.fromkeys(NASTY, arms["rlkd"])
    cells = [Cell({"method": name}, 0, make_result(0.7)) for name in NASTY]
    seeds = charts.every_seed(compare_cells(cells))
    few = {name: runs for name, runs in hostile.items() if "$" in name or not name.isascii()}
    for picture, names, limit in (
        (charts.headline(hostile, Scores), hostile, 28),
        (charts.temperature(few), few, 60),
        (seeds, hostile, 44),
    ):
        assert {plain(name, limit) for name in names} <= {*words(picture.svg or "")}
    assert notes(seeds.svg or "") == [f"method={printable(name)} seed=0: 70.00 %" for name in NASTY]


def test_dots_lie_at_their_values(make_result: Callable[..., Result]) -> None:
    found = [
        Cell({"method": "a"}, seed, make_result(top, seed=seed))
        for seed, top in enumerate((0.1, 0.2))
    ]
    chart = charts.every_seed(compare_cells([*found, Cell({"method": "b"}, 0)])).svg or ""
    root = ElementTree.fromstring(chart)
    dots = {
        (group.findtext(f"{SVG}title") or ""): [use.attrib for use in group.iter(f"{SVG}use")]
        for group in root.iter(f"{SVG}g")
        if group.find(f"{SVG}title") is not None
    }
    assert list(dots) == ["method=a seed=0: 10.00 %", "method=a seed=1: 20.00 %"]
    (first,), (second,) = dots.values()
    assert float(first["x"]) < float(second["x"])
    assert first["y"] == second["y"]
    assert "not run" in words(chart)


@pytest.fixture
def runs(make_result: Callable[..., Result]) -> list[RunRecord]:
    first = [{"epoch": 1.0, "a": 1.0}, {"epoch": 2.0, "a": 2.0}, {"epoch": 3.0}]
    second = [{"epoch": 1.0, "a": 4.0}, {"epoch": 2.0, "a": math.nan}, {"a": 9.0}]
    return [RunRecord(Path("run"), make_result(), rows, None) for rows in (first, second)]


def test_an_epoch_counts_the_runs_that_have_it(runs: list[RunRecord]) -> None:
    found = over_seeds(runs, "a")
    assert found.epoch.tolist() == [1.0, 2.0]
    assert found.mean.tolist() == [2.5, 2.0]
    assert (found.low.tolist(), found.high.tolist()) == ([1.0, 2.0], [4.0, 2.0])


def test_a_column_that_no_run_has_is_empty(runs: list[RunRecord]) -> None:
    assert over_seeds(runs, "b").epoch.size == 0


def test_the_last_epochs_and_a_factor_keep_the_figures_together(runs: list[RunRecord]) -> None:
    found = over_seeds(runs, "a", 100.0).since(2.0)
    assert [each.tolist() for each in found] == [[2.0], [200.0], [200.0], [200.0]]


def test_a_panel_spans_the_epochs_of_every_run(arms: Arms) -> None:
    """The agent begins in the second of three epochs, and the axis in the first."""
    chart = charts.reward({"rlkd": arms["rlkd"]}).svg or ""
    assert {"1", "2", "3"} <= {*words(chart)}


@pytest.mark.parametrize(
    ("terms", "named"),
    [({"kd": 3.0, "cross_entropy": 1.0}, {"loss", "kd", "cross entropy"}), ({"kd": 4.0}, {"loss"})],
)
def test_the_loss_is_drawn_with_its_terms_where_it_has_several(
    make_result: Callable[..., Result], terms: dict[str, float], named: set[str]
) -> None:
    row = {"epoch": 1.0, "train/loss": 4.0} | {f"train/loss_{k}": v for k, v in terms.items()}
    run = RunRecord(Path("run"), make_result(), [row, row | {"epoch": 2.0}], None)
    chart = charts.losses({"an arm": [run]}).svg or ""
    assert {"loss", "kd", "cross entropy"} & {*words(chart)} == named
    assert "an arm" in words(chart)


def test_runs_without_a_loss_have_no_chart_of_it(runs: list[RunRecord]) -> None:
    assert charts.losses({"an arm": runs}).svg is None
