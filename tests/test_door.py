"""What a stranger meets: a clone with nothing beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import find_real_data
from tests.reference.golden_losses import GOLDEN

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("folder", "reason"),
    [(None, "RLKD_DATA is not set"), ("", "RLKD_DATA is not set"), ("nowhere", "has no cifar100")],
)
def test_real_data_that_are_absent_skip_a_test_with_the_reason(
    folder: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLKD_DATA", raising=False)
    if folder is not None:
        monkeypatch.setenv("RLKD_DATA", folder)
    with pytest.raises(pytest.skip.Exception, match=reason):
        find_real_data("cifar100")


def test_real_data_that_are_there_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cifar100").mkdir()
    monkeypatch.setenv("RLKD_DATA", str(tmp_path))
    assert find_real_data("cifar100") == tmp_path / "cifar100"


def test_no_test_asks_for_real_data_in_a_way_of_its_own() -> None:
    variable = "RLKD_" + "DATA"
    users = {path.name for path in (ROOT / "tests").rglob("*.py") if variable in path.read_text()}
    assert users == {"conftest.py", "test_door.py"}


def test_every_golden_loss_comes_with_its_source() -> None:
    told = json.loads((GOLDEN / "losses.json").read_text())
    with np.load(GOLDEN / "losses.npz") as stored:
        assert {name.partition("/")[0] for name in stored.files} == told.keys()
    assert all(each["source"] for each in told.values())
