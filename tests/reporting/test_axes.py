import pytest

from rlkd.reporting.axes import (
    Scale,
    epoch_axis,
    linear_axis,
    logarithmic_axis,
    nice_ticks,
    tick_labels,
    tight_axis,
)


def test_a_scale_maps_its_ends_and_its_middle() -> None:
    scale = Scale(10.0, 20.0, 100.0, 0.0)
    assert [scale(10.0), scale(15.0), scale(20.0)] == [100.0, 50.0, 0.0]
    assert Scale(1.0, 100.0, 0.0, 10.0, logarithmic=True)(10.0) == pytest.approx(5.0)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_a_scale_must_span_something(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="low < high"):
        Scale(low, high, 0.0, 1.0)


def test_ticks_are_round_and_inside() -> None:
    assert nice_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(67.3, 71.9) == [68.0, 69.0, 70.0, 71.0]
    assert nice_ticks(1.0, 3.0, 6, whole=True) == [1.0, 2.0, 3.0]


def test_labels_have_no_more_decimals_than_needed() -> None:
    assert tick_labels([0.0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]
    assert tick_labels([-1000.0, 1000.0]) == ["\N{MINUS SIGN}1,000", "1,000"]


def test_an_axis_ends_at_round_values_around_the_data() -> None:
    axis = linear_axis([67.3, 71.9], "accuracy, %")
    assert (axis.low, axis.high) == (67.0, 72.0)
    assert linear_axis([3.0, 7.5], "T", from_zero=True).low == 0.0


@pytest.mark.parametrize("value", [0.0, 4.0, -3.0, 1e-7, 1e9])
def test_a_constant_still_has_an_axis(value: float) -> None:
    for axis in (linear_axis([value], "x"), tight_axis([value, value], "x")):
        assert axis.low <= value <= axis.high
        assert axis.low < axis.high


def test_small_values_are_told_with_a_power_of_ten_in_the_title() -> None:
    axis = linear_axis([0.0, 4e-5], "reward")
    assert axis.title == "reward, \N{MULTIPLICATION SIGN}10⁻⁵"
    assert axis.labels == ["0", "1", "2", "3", "4"]


def test_a_logarithmic_axis_holds_the_data_and_names_decades() -> None:
    axis = logarithmic_axis([3e-6, 4e-3], "reward")
    assert axis.low == pytest.approx(2e-6)
    assert axis.high == pytest.approx(5e-3)
    assert axis.labels == ["10⁻⁵", "10⁻⁴", "10⁻³"]


def test_epochs_are_whole_and_one_alone_is_enough() -> None:
    assert epoch_axis([1.0, 2.0, 3.0]).labels == ["1", "2", "3"]
    alone = epoch_axis([1.0])
    assert (alone.low, alone.high, alone.ticks) == (0.5, 1.5, [1.0])
