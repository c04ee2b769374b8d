"""A few kills of those that benchmarks/kills.py does by the hundred."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


def test_kills_amid_writing_lose_nothing_and_end_in_the_same_bits(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    aim = ("--kills", "9", "--only", "distill", "export safetensors")
    command = [sys.executable, script, *aim, "--out", tmp_path / "kills.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert (found["kills"], found["lost"]) == (9, 0)
    assert found["commands"].keys() == {"distill", "distill, two ranks", "export safetensors"}
    for each in found["commands"].values():
        assert each["ends_equal_to_the_undisturbed"] == each["ends"] > 0
        assert each["faults"] == []
