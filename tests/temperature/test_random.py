from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from tests.agent.loop import drive
from tests.reference.squashed_gaussian import cumulative, quantile
from torch import Tensor

from rlkd.errors import UserError
from rlkd.temperature import LogitStandardisation, RandomTemperature, RecordedMean
from rlkd.temperature.recorded import QUANTILES, quantile_column

ROWS = 20000
LOGITS, TARGET = torch.zeros(ROWS, 2), torch.zeros(ROWS, dtype=torch.long)


def draw(source: RandomTemperature) -> Tensor:
    given = source(LOGITS, LOGITS, TARGET)
    assert torch.equal(given.student, given.teacher)
    return given.student


def record(folder: Path, *rows: list[float]) -> str:
    header = ",".join(["epoch", *map(quantile_column, QUANTILES)])
    lines = [",".join(map(str, [epoch, *row])) for epoch, row in enumerate(rows, start=1)]
    (folder / "metrics.csv").write_text("\n".join([header, *lines]) + "\n")
    return str(folder)


def test_temperatures_follow_the_agents_first_distribution() -> None:
    drawn = draw(RandomTemperature(base_temperature=4.0, initial_std=0.5)).double()
    mean = float(np.log(4 / 6))

    def distribution(values: np.ndarray) -> np.ndarray:
        return np.array([cumulative(value, mean, 0.5, 10.0) for value in values.tolist()])

    assert kstest(drawn[:3000].numpy(), distribution).pvalue > 0.01
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        expected = quantile(level, mean, 0.5, 10.0)
        assert drawn.quantile(level).item() == pytest.approx(expected, abs=0.06)


def test_temperatures_have_no_regard_to_the_instance() -> None:
    one, other = RandomTemperature(seed=4), RandomTemperature(seed=4)
    found = one(torch.randn(9, 3), torch.randn(9, 3), torch.zeros(9, dtype=torch.long))
    same = other(torch.randn(9, 3), torch.randn(9, 3), torch.ones(9, dtype=torch.long))
    assert torch.equal(found.student, same.student)


def test_the_seed_decides_and_torchs_own_random_numbers_do_not() -> None:
    before = torch.random.get_rng_state()
    first, second, third = (drive(RandomTemperature(seed=seed), range(3)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first, third))


def test_warm_up_is_constant() -> None:
    source = RandomTemperature(base_temperature=3.0, warmup_epochs=1)
    source.start_epoch(1)
    assert (draw(source) == 3).all()
    source.start_epoch(2)
    assert draw(source).std() > 0.1


def test_a_recorded_run_is_followed_epoch_by_epoch(tmp_path: Path) -> None:
    quiet = [4.0] * 7
    #        1%   5%   25%  50%  75%  95%  99%
    wide = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0]
    source = RandomTemperature(like=record(tmp_path, quiet, wide))
    source.start_epoch(1)
    torch.testing.assert_close(draw(source), torch.full((ROWS,), 4.0))
    for epoch in (2, 3):  # the last recorded epoch stands for later ones
        source.start_epoch(epoch)
        drawn = draw(source)
        assert drawn.min() >= 1
        assert drawn.max() <= 9
        # The levels run from 1 % to 99 %, so that F(T) = (level - 0.01) / 0.98; at 3.5, half way
        # from 3 (25 %) to 4 (50 %), the level is 37.5 %.
        for temperature, level in (
            (2.0, 0.05),
            (3.0, 0.25),
            (3.5, 0.375),
            (6.0, 0.75),
            (7.0, 0.85),
        ):
            share = (drawn <= temperature).double().mean().item()
            assert share == pytest.approx((level - 0.01) / 0.98, abs=0.012)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no metrics\.csv there; give the folder of an agent's"):
        RandomTemperature(like=str(tmp_path))


@pytest.mark.parametrize("text", ["epoch,loss\n1,0.5\n", "epoch\n"])
def test_a_record_without_temperatures_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"records no temperatures \(temperature/p01 \.\.\.\)"):
        RandomTemperature(like=str(tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        {"base_temperature": 0.0},
        {"base_temperature": 0.049},
        {"base_temperature": 10.0},
        {"initial_std": 0.0},
    ],
)
def test_impossible_values_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(options))}=.*: give a number (above|from) 0"):
        RandomTemperature(**options)  # pyright: ignore[reportArgumentType]


def test_the_control_learns_nothing_and_asks_for_nothing() -> None:
    source = RandomTemperature()
    drive(source, range(3))
    assert not source.observation_due
    assert source.updates == 0
    assert list(source.parameters()) == []


def test_the_recorded_mean_is_one_temperature_an_epoch(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,temperature/mean\n1,4.0\n2,2.5\n")
    source = RecordedMean(like=str(tmp_path))
    for epoch, mean in ((1, 4.0), (2, 2.5), (3, 2.5)):
        source.start_epoch(epoch)
        given = source(LOGITS[:5], LOGITS[:5], TARGET[:5])
        assert given.student.tolist() == given.teacher.tolist() == [mean] * 5
    alone = RecordedMean(base_temperature=3.0)(LOGITS[:2], LOGITS[:2], TARGET[:2])
    assert alone.student.tolist() == [3.0, 3.0]
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(UserError, match=r"records no temperatures \(temperature/mean \.\.\.\)"):
        RecordedMean(like=str(tmp_path))


def test_the_recorded_mean_over_standardised_logits_is_that_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,temperature/mean\n1,3.0\n")
    (tmp_path / "config.yaml").write_text("temperature: {over: standardised}\n")
    student, teacher = torch.randn(2, 5, 7)
    given = RecordedMean(like=str(tmp_path), over="standardised")(student, teacher, TARGET[:5])
    expected = LogitStandardisation(base_temperature=3.0)(student, teacher, TARGET[:5])
    assert torch.allclose(given.student, expected.student)
    assert torch.allclose(given.teacher, expected.teacher)
    assert torch.allclose(given.factor, expected.factor)


@pytest.mark.parametrize("source", [RecordedMean, RandomTemperature])
def test_a_run_over_other_logits_is_not_followed(source: Any, tmp_path: Path) -> None:
    names = ["temperature/mean", *map(quantile_column, QUANTILES)]
    numbers = ",".join("4" for _ in names)
    (tmp_path / "metrics.csv").write_text(f"epoch,{','.join(names)}\n1,{numbers}\n")
    (tmp_path / "config.yaml").write_text("temperature: {over: normkd}\n")
    with pytest.raises(UserError, match=r"over normkd logits.* give temperature.over=normkd"):
        source(like=str(tmp_path))
    source(like=str(tmp_path), over="normkd")
