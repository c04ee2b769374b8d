"""The script for a GPU, rehearsed without one."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
PLAN: dict[str, Any] = {
    "common": [
        "data=digits",
        "data.limit=48",
        "trainer.batch_size=16",
        "trainer.threads=1",
        "trainer.epochs=2",
        "trainer.checkpoint_every_steps=1",
    ],
    "teacher": ["student=convnet_tiny"],
    "student": ["teacher=convnet_tiny", "teacher.checkpoint=$TEACHER", "student=convnet_tiny"],
    "seed": [0],
    "method": ["kd"],
    "temperature": ["constant", "ctkd"],
}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "gpu"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    import table

    return table


def script(out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "benchmarks" / "gpu" / "run.sh"), str(out)]
    environment = os.environ | {"DEVICE": "cpu", "PYTHON": sys.executable} | settings
    environment.pop("DATA", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "table.csv").open() as file:
        return {row["cell"]: row for row in csv.DictReader(file)}


@pytest.mark.long
def test_one_command_tests_times_and_trains_and_the_next_call_goes_on(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "out"
    plan.write_text(yaml.safe_dump(PLAN))
    settings = {
        "PLAN": str(plan),
        "TESTS": "-m gpu tests/gpu/test_losses.py -k nkd",
        "SPEED": "--recipes 2 --rounds 1 --group 1 --images 128",
    }
    done = script(out, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch sees no CUDA device here" in done.stdout
    report = json.loads((out / "speed.json").read_text())
    assert list(report["images_per_second"]) == ["conventional, fp32", "constant T, fp32"]
    assert [each["state"] for each in rows(out).values()] == ["done"] * 3

    again = script(out, **settings)
    assert again.returncode == 0
    assert "tests: passed before" in again.stdout
    assert "speed: passed before" in again.stdout
    assert "table: 3 of 3 cells done" in again.stdout


@pytest.mark.long
def test_without_a_gpu_the_script_says_so(tmp_path: Path) -> None:
    done = script(tmp_path / "out", DEVICE="gpu", CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (2, "")
    assert "torch sees no CUDA device here: DEVICE=cpu rehearses without one" in done.stderr


@pytest.mark.long
def test_without_data_the_table_is_skipped_with_the_reason(tmp_path: Path) -> None:
    done = script(tmp_path / "out", STAGES="table")
    assert done.returncode == 0
    assert "table: skipped, for 'DATA' is not given" in done.stdout


@pytest.mark.long
def test_a_cell_whose_time_is_up_saves_where_it_stands_and_goes_on(
    tmp_path: Path, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PLAN | {"common": [*PLAN["common"], "trainer.epochs=100"]}
    cell = table.cells(plan, tmp_path, {})[0]
    wait = subprocess.Popen.wait

    def wait_for_a_checkpoint(run: Any, timeout: float | None = None) -> int:
        if timeout == 1000:
            while run.poll() is None and not list(cell.folder.glob("checkpoints/*.ckpt")):
                time.sleep(0.01)
            raise subprocess.TimeoutExpired("rlkd", timeout)
        return wait(run, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_a_checkpoint)
    monkeypatch.setattr(table, "monotonic", lambda: 0.0)
    assert table.train(cell, until=1000.0) == 143
    assert cell.result is None
    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    assert table.train(cell, until=10**6) == 0
    assert "resuming from" in cell.folder.with_suffix(".log").read_text()
    assert cell.epochs == 100


def test_seeds_come_outermost_and_a_given_teacher_is_not_trained(
    tmp_path: Path, table: Any
) -> None:
    plan = PLAN | {"seed": [0, 1]}
    made = table.cells(plan, tmp_path, {"TEACHER": "/t.pth"})
    assert [each.name for each in made] == [
        "kd-constant-0",
        "kd-ctkd-0",
        "kd-constant-1",
        "kd-ctkd-1",
    ]
    assert "teacher.checkpoint=/t.pth" in made[0].overrides
    first = table.cells(plan, tmp_path, {"TEACHER": ""})[0]
    assert (first.name, first.verb) == ("teacher", "train")


def test_the_packaged_plan_composes(table: Any, tmp_path: Path) -> None:
    from rlkd.config.compose import configure

    plan = yaml.safe_load((ROOT / "benchmarks" / "gpu" / "table.yaml").read_text())
    with pytest.raises(KeyError, match="DATA"):
        table.cells(plan, tmp_path, {})
    made = table.cells(plan, tmp_path, {"DATA": "/data", "TEACHER": "/t.pth"})
    assert len({each.name for each in made}) == len(made) == 36
    for cell in made[:12]:
        config = configure(cell.overrides)
        assert (config.trainer.epochs, config.student.name) == (240, "resnet20")
