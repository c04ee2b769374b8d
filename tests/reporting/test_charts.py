import math
import re

import pytest

from rlkd.reporting.axes import epoch_axis, linear_axis
from rlkd.reporting.heat_map import HeatGrid, heat_map
from rlkd.reporting.line_chart import Fan, Mark, Reference, Series, fan_chart, line_chart, spread


def chart(*series: Series, legend: bool = True) -> str:
    x, y = epoch_axis([1.0, 3.0]), linear_axis([0.0, 10.0], "accuracy, %")
    level = Reference(9.0, "teacher")
    return line_chart(
        series, width=400, height=300, x=x, y=y, title="<kd>", reference=level, legend=legend
    ).body


def test_a_line_chart_names_everything_it_shows() -> None:
    one = Series("kd & co", [1.0, 3.0], [2.0, 4.0], [1.0, 3.0], [3.0, 5.0], "#0072b2")
    body = chart(one)
    for words in ("&lt;kd&gt;", "kd &amp; co", "accuracy, %", "epoch", "teacher"):
        assert words in body
    assert body.count("<polygon") == 1
    assert "kd &amp; co" not in chart(one, legend=False)


def test_points_that_are_not_known_are_left_out() -> None:
    mean = [2.0, math.nan, 4.0]
    body = chart(Series("kd", [1.0, 2.0, 3.0], mean, mean, mean, "#0072b2"))
    assert "nan" not in body.lower()
    assert body.count("<circle") == 2


def test_lines_rise_with_their_values() -> None:
    values = [2.0, 4.0]
    body = chart(Series("kd", [1.0, 3.0], values, values, values, "#0072b2"))
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', body)]
    # the axis runs from 0 at pixel 300 - 40 to 10 at pixel 46: 2 is at 260 - 0.2 * 214
    assert heights == pytest.approx([217.2, 174.4])


def test_a_fan_has_two_bands_a_median_and_its_mark() -> None:
    fan = Fan([1.0, 2.0], [1.0, 1.0], [2.0, 2.0], [4.0, 4.0], [5.0, 5.0], [9.0, 9.0], "#0072b2")
    x, y = epoch_axis(fan.x), linear_axis([1.0, 9.0], "T")
    body = fan_chart(fan, width=400, height=300, x=x, y=y, mark=Mark(1.5, "agent starts")).body
    assert body.count("<polygon") == 2
    for words in ("median", "25-75 %", "5-95 %", "agent starts"):
        assert words in body


def test_a_heat_map_hatches_what_it_does_not_know() -> None:
    cells = HeatGrid([0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [[4.0, None], [2.0, 8.0]], [[3, 0], [1, 2]])
    bar = linear_axis([2.0, 8.0], "mean T")
    body = heat_map(
        cells, width=500, height=400, x_title="student", y_title="teacher", bar=bar
    ).body
    assert body.count("<path") == 1
    assert body.count("no instance") == 1
    assert "8.00 over 2 instances" in body
    for words in ("student", "teacher", "mean T", ">4.0<", ">0.5<"):
        assert words in body
    # rows are drawn upwards: the last row of the grid stands above the first
    first, last = (
        float(re.search(rf'y="([\d.]+)"[^>]*><title>{value} over', body)[1])  # pyright: ignore[reportOptionalSubscript]
        for value in ("4.00", "8.00")
    )
    assert last < first


def test_labels_move_apart_no_further_than_they_must() -> None:
    assert spread([10.0, 50.0], 16.0, 0.0, 100.0) == [10.0, 50.0]
    # two at one place share the way: 8 up, 8 down
    assert spread([50.0, 50.0], 16.0, 0.0, 100.0) == [42.0, 58.0]
    assert spread([99.0, 100.0], 16.0, 0.0, 100.0) == [84.0, 100.0]
    assert spread([0.0, 1.0], 16.0, 0.0, 100.0) == [0.0, 16.0]
