"""The examples run, and stay short."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.training.runs import as_users_call

PLAIN_LOOP = Path(__file__).parent.parent / "examples" / "plain_loop.py"


@pytest.fixture(autouse=True)
def plainly() -> Iterator[None]:
    with as_users_call():
        yield


def test_the_plain_loop_is_short_and_needs_no_lightning() -> None:
    text = PLAIN_LOOP.read_text()
    assert len(text.splitlines()) < 60
    assert "lightning" not in text.replace("no Lightning", "")


def test_the_plain_loop_runs_and_its_agent_learns(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("plain_loop", PLAIN_LOOP)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main(epochs=2) > 0.14  # chance is 0.1, give or take 0.016
    said = re.fullmatch(r"student [\d.]+ %, (\d+) updates of the agent\n", capsys.readouterr().out)
    assert said is not None
    assert int(said[1]) > 0
