"""The study's tables: what a family that is not whole may not show."""

import sys
from pathlib import Path

import pytest
from benchmarks import study_tables

RESULTS = Path(study_tables.__file__).parent / "results"


def test_arms_of_a_family_that_lacks_a_run_are_counted_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {f"arm=look_ahead_standardised,seed={seed}" for seed in (0, 5)}  # one a family
    for run in (RESULTS / "cifar100_small").iterdir():
        if run.name not in missing:
            (tmp_path / run.name).symlink_to(run)
    chosen = str(RESULTS / "cifar100_choose")
    monkeypatch.setattr(sys, "argv", ["study_tables", str(tmp_path), "--chosen", chosen])
    study_tables.main()
    rows = {
        line.split(" | ")[0]: line
        for line in capsys.readouterr().out.partition("###")[0].splitlines()
    }
    for arm in ("look_ahead_standardised", "standardised_2"):
        assert "." not in rows[f"| {arm}"]
        assert rows[f"| {arm}"].endswith("| | | | | |")
    assert "38.78" in rows["| constant_4"]


def test_seeds_of_a_family_that_lacks_a_run_move_no_mean() -> None:
    found = study_tables.results(RESULTS / "cifar100_small")
    arm = "look_ahead_standardised"
    first = {seed: each for seed, each in found[arm].items() if seed < 5}
    before = study_tables.arms_table({**found, arm: first}, "constant_4")
    more = {**found, arm: {**first, 5: found["alone"][0]}}
    assert study_tables.arms_table(more, "constant_4", {(arm, 5)}) == before
    assert study_tables.arms_table(more, "constant_4") != before
