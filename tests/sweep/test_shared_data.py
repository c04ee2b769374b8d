"""The runs of a sweep share their data, which are loaded once."""

from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from tests.support.runs import silent, tiny

from rlkd.commands.compare import multirun
from rlkd.config.compose import configure
from rlkd.data import datasets as sets
from rlkd.engine.shared_data import loaded_once
from rlkd.tasks.classification.data import load_dataset
from rlkd.tasks.detection.data import detection_sets

pytestmark = pytest.mark.usefixtures("plainly")


@pytest.mark.long
def test_a_sweep_loads_its_data_once_for_its_checks_and_its_runs(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @wraps(sets.digits)
    def counted(*, limit: int | None, **options: Any) -> sets.Dataset:
        loaded.append(limit)
        return digits(limit=limit, **options)

    loaded: list[int | None] = []
    digits = sets.digits
    monkeypatch.setattr(sets, "digits", counted)
    given = tiny(teacher_file, tmp_path / "out", "temperature=constant,ctkd", "trainer.epochs=1")
    multirun([*given, "seed=0,1"], console=silent())
    assert loaded == [48]
    assert len(list((tmp_path / "out").glob("*/result.json"))) == 4


def test_runs_that_are_no_sweep_load_their_own() -> None:
    config = configure(["data=digits"])
    assert load_dataset(config) is not load_dataset(config)
    with loaded_once():
        first = load_dataset(config)
        assert load_dataset(configure(["data=digits", "seed=1"])) is first
        other = configure(["data=digits", "data.limit=20"])
        assert len(load_dataset(other).train) == 20
        assert load_dataset(config) is not first  # the last alone are kept
        shapes = configure(["task=detection", "data.train=2", "data.test=1"])
        assert detection_sets(shapes) is detection_sets(shapes)
    assert load_dataset(config) is not load_dataset(config)
