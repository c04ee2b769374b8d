"""The pictures of what the temperature did: what is plotted, and the sentence under it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlkd.errors import UserError
from rlkd.reporting.axes import (
    TIMES,
    epoch_axis,
    linear_axis,
    logarithmic_axis,
    power_of_ten,
    tight_axis,
)
from rlkd.reporting.heat_map import HeatGrid, heat_map
from rlkd.reporting.line_chart import Fan, Mark, Series, fan_chart, line_chart
from rlkd.reporting.policy import PolicyMap, pool
from rlkd.reporting.record import RunRecord
from rlkd.reporting.series import OverSeeds, epochs_of, over_seeds
from rlkd.reporting.svg import NEUTRAL, arm_colour, arm_dash, grid, shorten

Arms = Mapping[str, Sequence[RunRecord]]

WIDTH = 920.0
GAP = 24.0
HALF = (WIDTH - GAP) / 2
QUANTILES = ("p05", "p25", "p50", "p75", "p95")
VARIES = 1e-6


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with its heading and its caption."""

    title: str
    svg: str | None
    """The picture; None where the runs hold no data for it."""
    caption: str
    """What is seen; or, where there is no picture, why not."""


def temperature(arms: Arms) -> Picture:
    """Plot the distribution of the temperature over epochs, for the arms in which it varies."""
    title = "Temperatures that training instances were given"
    found = {label: _fan(runs, list(arms).index(label)) for label, runs in arms.items()}
    fans = {label: fan for label, fan in found.items() if fan is not None}
    if not fans:
        recorded = any(over_seeds(runs, "temperature/p50").epoch for runs in arms.values())
        why = (
            "In no arm does the temperature vary, over instances or over epochs."
            if recorded
            else "No run recorded its temperatures."
        )
        return Picture(title, None, why)
    values = [value for fan in fans.values() for value in (*fan.p05, *fan.p95)]
    epochs = epochs_of([run for label in fans for run in arms[label]])
    alone = len(fans) == 1
    drawings = [
        fan_chart(
            fan,
            width=WIDTH if alone else HALF,
            height=300 if alone else 250,
            x=epoch_axis(epochs),
            y=linear_axis(values, "temperature T", from_zero=True),
            title=shorten(label, 60),
            mark=_agent_start(arms[label]),
        )
        for label, fan in fans.items()
    ]
    caption = (
        "Quantiles of T over the instances of an epoch, each averaged over the seeds; a fan that "
        "stays narrow means that the instances were treated alike."
    )
    return Picture(title, grid(drawings, 2, gap=GAP).svg(title), caption)


def policy(arms: Arms) -> Picture:
    """Plot the mean temperature over the confidences of teacher and student."""
    title = "The policy: temperature over confidence"
    maps = {label: _pooled(label, runs) for label, runs in arms.items()}
    grids = {label: _grid(each) for label, each in maps.items() if each is not None}
    grids = {label: each for label, each in grids.items() if each.known()}
    if not grids:
        why = "No run recorded temperatures over the confidences: no arm has a learning agent."
        return Picture(title, None, why)
    bar = tight_axis([value for each in grids.values() for value in each.known()], "mean T")
    alone = len(grids) == 1
    drawings = [
        heat_map(
            each,
            width=600 if alone else HALF,
            height=460 if alone else 360,
            x_title="student confidence, probability of its top class",
            y_title="teacher confidence",
            bar=bar,
            title=shorten(label, 60),
        )
        for label, each in grids.items()
    ]
    caption = (
        "Mean T of the instances in each bin, pooled over the seeds by number of instances; "
        "hatched bins held none, and a bin that held few says little (point at it for the number)."
    )
    return Picture(title, grid(drawings, 2, gap=GAP).svg(title), caption)


def reward(arms: Arms) -> Picture:
    """Plot the spread of instance rewards before and after calibration."""
    title = "Rewards of instances before and after calibration"
    found = {label: _rewards(runs, list(arms).index(label)) for label, runs in arms.items()}
    shown = {label: series for label, series in found.items() if series}
    if not shown:
        return Picture(title, None, "No run recorded rewards: no arm has a learning agent.")
    shown_arms = {label: arms[label] for label in shown}
    epochs = epochs_of([run for runs in shown_arms.values() for run in runs])
    bounds = [v for many in shown.values() for each in many for v in (*each.low, *each.high)]
    name = "standard deviation of the reward over instances"
    log = min(bounds) > 0 and max(bounds) > 20 * min(bounds)
    y = logarithmic_axis(bounds, name) if log else linear_axis(bounds, name, from_zero=True)
    alone = len(shown) == 1
    drawings = [
        line_chart(
            series,
            width=WIDTH if alone else HALF,
            height=300 if alone else 250,
            x=epoch_axis(epochs),
            y=y,
            title=shorten(label, 60),
        )
        for label, series in shown.items()
    ]
    caption = (
        "How far apart the rewards of instances lie when each batch's reward is divided evenly, "
        f"and after calibration{band_words(shown_arms)}; where the lines "
        f"coincide, calibration told no instance from another{_sum_error(shown_arms)}."
    )
    return Picture(title, grid(drawings, 2, gap=GAP).svg(title), caption)


def arm_series(label: str, line: OverSeeds, arms: Arms) -> Series:
    """Return the line of an arm in the arm's own colour."""
    index = list(arms).index(label)
    return _series(label, line, arm_colour(index), arm_dash(index))


def _series(label: str, line: OverSeeds, colour: str, dash: str = "") -> Series:
    return Series(label, line.epoch, line.mean, line.low, line.high, colour, dash)


def band_words(arms: Arms) -> str:
    """Say what the line and the band of an arm are."""
    if max(len(runs) for runs in arms.values()) == 1:
        return ", one run each, so no spread is known"
    return ", mean over seeds, band from the lowest seed to the highest"


def _fan(runs: Sequence[RunRecord], index: int) -> Fan | None:
    """Return the quantiles of T; None where T is constant or was not recorded."""
    quantiles = [over_seeds(runs, f"temperature/{name}") for name in QUANTILES]
    common = set(quantiles[0].epoch).intersection(*(each.epoch for each in quantiles))
    epochs = sorted(common)
    if not epochs:
        return None
    known = [dict(zip(each.epoch, each.mean, strict=True)) for each in quantiles]
    p05, p25, p50, p75, p95 = ([each[epoch] for epoch in epochs] for each in known)
    wide = any(high - low > VARIES for low, high in zip(p05, p95, strict=True))
    moves = max(p50) - min(p50) > VARIES
    return Fan(epochs, p05, p25, p50, p75, p95, arm_colour(index)) if wide or moves else None


def _agent_start(runs: Sequence[RunRecord]) -> Mark | None:
    rewards = over_seeds(runs, "agent/reward").epoch
    return Mark(rewards[0], f"agent from epoch {rewards[0]:.0f}") if rewards else None


def _pooled(label: str, runs: Sequence[RunRecord]) -> PolicyMap | None:
    maps = [run.policy for run in runs if run.policy is not None]
    try:
        return pool(maps) if maps else None
    except ValueError as error:
        raise UserError(f"arm {label!r}: {error}; compare runs of one version only") from None


def _grid(each: PolicyMap) -> HeatGrid:
    rows, columns = each.shape
    value = [[each.cell(row, column) for column in range(columns)] for row in range(rows)]
    edges = each.teacher_confidence_edges, each.student_confidence_edges
    return HeatGrid(*edges, value, each.count)


def _rewards(runs: Sequence[RunRecord], index: int) -> list[Series]:
    even = over_seeds(runs, "agent/reward_even_std")
    calibrated = over_seeds(runs, "agent/reward_calibrated_std")
    before = _series("spread evenly", even, NEUTRAL)
    after = _series("calibrated", calibrated, arm_colour(index))
    return [each for each in (before, after) if each.x]


def _sum_error(arms: Arms) -> str:
    found = [over_seeds(runs, "agent/reward_calibrated_sum_error") for runs in arms.values()]
    errors = [abs(value) for each in found for value in (*each.low, *each.high)]
    if not errors:
        return ""
    return f"; the parts add up to the batch's reward within {_short(max(errors))}"


def _short(value: float) -> str:
    """Write a small number to one figure, such as 2×10⁻⁹."""
    if value == 0:
        return "0"
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}{TIMES}{power_of_ten(int(power))}"
