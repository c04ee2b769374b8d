"""An epoch's figures, by hand."""

import io
from pathlib import Path

import pytest
import torch

from rlkd.engine.meters import EpochMeters
from rlkd.reporting import write_metrics
from rlkd.temperature import RandomTemperature
from rlkd.temperature.over import over
from rlkd.temperature.recorded import QUANTILES, quantile_column
from rlkd.types import Temperatures


def test_loss_and_accuracy_are_means_over_instances() -> None:
    meters = EpochMeters()
    logits = torch.eye(3)
    meters.add_batch(torch.tensor(2.0), logits, torch.tensor([0, 1, 0]))  # two of three
    meters.add_batch(torch.tensor(6.0), logits[:1], torch.tensor([1]))  # none of one
    row = meters.read()
    assert row == {"train/loss": (3 * 2 + 6) / 4, "train/accuracy": 2 / 4}


def test_the_terms_of_the_loss_are_means_over_instances_and_add_up_to_it() -> None:
    meters = EpochMeters(("ce", "kd"))
    logits = torch.eye(3)
    ce, kd = torch.tensor(0.5), torch.tensor(1.5)
    meters.add_batch(ce + kd, logits, torch.tensor([0, 1, 0]), {"ce": ce, "kd": kd})
    ce, kd = torch.tensor(2.0), torch.tensor(4.0)
    meters.add_batch(ce + kd, logits[:1], torch.tensor([1]), {"kd": kd, "ce": ce})
    row = meters.read()
    assert row["train/loss_ce"] == (3 * 0.5 + 2) / 4
    assert row["train/loss_kd"] == (3 * 1.5 + 4) / 4
    assert row["train/loss"] == row["train/loss_ce"] + row["train/loss_kd"]
    meters.reset()
    assert meters.read()["train/loss_kd"] == 0


def test_what_is_recorded_is_what_was_chosen() -> None:
    meters, logits = EpochMeters(), torch.arange(10.0).expand(4, 10)
    given = over("standardised", logits, torch.arange(4), torch.full((4, 1), 2.0), logits)
    assert (given.student > 4.0).all()
    meters.add_temperatures(given.first(2), None)
    row = meters.read()
    assert (row["temperature/mean"], row["temperature/p99"]) == (2.0, 2.0)


def test_a_mixed_target_counts_by_its_likeliest_class() -> None:
    meters = EpochMeters()
    meters.add_batch(torch.tensor(1.0), torch.eye(2), torch.tensor([[0.7, 0.3], [0.7, 0.3]]))
    assert meters.read()["train/accuracy"] == 0.5


def test_temperatures_are_told_by_mean_spread_and_quantiles() -> None:
    meters = EpochMeters()
    meters.add_temperatures(Temperatures.same(torch.tensor([2.0, 4.0])), None)
    meters.add_temperatures(Temperatures.same(torch.tensor([6.0, 8.0])), None)
    row = meters.read()
    assert row["temperature/mean"] == 5
    assert row["temperature/std"] == pytest.approx(5**0.5)  # (9 + 1 + 1 + 9) / 4
    assert row["temperature/p50"] == 4.0
    assert row["temperature/p95"] == 8.0


def test_rows_that_are_not_finite_are_counted_by_network_and_stay_out_of_the_policy() -> None:
    meters = EpochMeters()
    nan = torch.nan
    state = torch.tensor([[0.9, 0.1, 0.2], [nan, 0.1, 0.2], [0.9, nan, nan], [nan, nan, nan]])
    meters.add_temperatures(Temperatures.same(torch.tensor([2.0, 4.0, 4.0, 4.0])), state)
    row = meters.read()
    assert (row["train/bad_rows_teacher"], row["train/bad_rows_student"]) == (2, 2)
    policy = meters.read_policy()
    assert policy is not None
    assert sum(map(sum, policy.count)) == 1
    assert policy.mean_temperature[9][1] == 2.0
    meters.reset()
    meters.add_temperatures(Temperatures.same(torch.ones(1)), state[:1])
    assert not [each for each in meters.read() if "bad_rows" in each]


@pytest.mark.parametrize("scale", [0.05, 0.3, 4.0, 15.6, 20.87, 400.0, 1e5])
@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0])
def test_quantiles_of_any_size_are_torchs_within_the_resolution(
    scale: float, spread: float
) -> None:
    # Of 101 values, every level falls on one of them, whatever the rule between two.
    drawn = scale * torch.exp(spread * torch.randn(101, generator=torch.Generator().manual_seed(0)))
    meters = EpochMeters()
    for part in drawn.split(40):
        meters.add_temperatures(Temperatures.same(part), None)
    expected = drawn.double().quantile(torch.tensor(QUANTILES).double()).tolist()
    row = meters.read()
    found = [row[quantile_column(level)] for level in QUANTILES]
    assert found == pytest.approx(expected, rel=1 / 256)
    if spread:
        assert row["temperature/p99"] > row["temperature/p01"]


def test_temperatures_that_are_out_of_all_bounds_count_at_the_ends() -> None:
    meters = EpochMeters()
    given = torch.tensor([0.0, 1e-9, 1e30, torch.inf])
    meters.add_temperatures(Temperatures.same(given), None)
    assert meters.histogram.nonzero().tolist() == [[0], [len(meters.histogram) - 1]]
    assert meters.histogram[[0, -1]].tolist() == [2, 2]


def test_a_control_replays_temperatures_above_ten(tmp_path: Path) -> None:
    """CTKD begins at 15.6; the control drew 9.99 for all of it."""
    given = torch.linspace(11.0, 20.87, 2001)
    meters = EpochMeters()
    meters.add_temperatures(Temperatures.same(given), None)
    write_metrics(tmp_path / "metrics.csv", [{"epoch": 1} | meters.read()])
    control = RandomTemperature(like=str(tmp_path))
    logits = torch.zeros(5000, 2)
    replayed = control(logits, logits, torch.zeros(5000, dtype=torch.long)).student
    levels = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(replayed.quantile(levels), given.quantile(levels), rtol=0.02, atol=0)


def test_the_policy_is_the_mean_temperature_by_both_confidences() -> None:
    meters = EpochMeters()
    state = torch.tensor([[0.05, 0.95, 0.0], [0.05, 0.95, 0.5], [1.0, 1.0, 0.0]])
    meters.add_temperatures(Temperatures.same(torch.tensor([2.0, 4.0, 9.0])), state)
    policy = meters.read_policy()
    assert policy is not None
    assert policy.mean_temperature[0][9] == 3  # teacher in [0, 0.1), student in [0.9, 1]
    assert policy.mean_temperature[9][9] == 9
    assert policy.count[0][9] == 2
    assert policy.mean_temperature[5][5] is None


def test_figures_are_means_over_updates_and_begin_anew_each_epoch() -> None:
    meters = EpochMeters()
    for value in (1.0, 2.0):
        figures = {"reward": torch.tensor(value), "temperature_mean": torch.tensor(4.0)}
        meters.add_figures(figures)
    assert meters.read()["agent/reward"] == 1.5
    assert "agent/temperature_mean" not in meters.read()
    meters.reset()
    assert meters.read() == {"train/loss": 0.0, "train/accuracy": 0.0}
    assert meters.read_policy() is None


def test_half_an_epoch_survives_a_checkpoint() -> None:
    meters, file = EpochMeters(("ce",)), io.BytesIO()
    term = {"ce": torch.tensor(2.0)}
    meters.add_batch(torch.tensor(2.0), torch.eye(3), torch.tensor([0, 1, 0]), term)
    meters.add_temperatures(Temperatures.same(torch.tensor([2.0, 4.0])), torch.rand(2, 3))
    meters.add_figures({"reward": torch.tensor(1.0)})
    torch.save(meters.state_dict(), file)
    file.seek(0)
    restored = EpochMeters(("ce",))
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.read() == meters.read()
    assert restored.read_policy() == meters.read_policy()


def test_a_count_does_not_stop_at_what_float32_can_hold() -> None:
    meters = EpochMeters()
    meters.histogram[len(meters.histogram) // 2] = 2**24
    meters.totals[4:] = torch.tensor([4.0 * 2**24, 16.0 * 2**24])
    meters.add_temperatures(Temperatures.same(torch.full((1,), 4.0)), None)
    assert int(meters.histogram.sum()) == 2**24 + 1
    assert meters.read()["temperature/mean"] == 4.0
