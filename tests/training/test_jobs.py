"""Runs as jobs: submitit's local executor for real, SLURM's by what it would be given."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.training.refusal import Refuse, assert_told
from tests.training.runs import silent, tiny

from rlkd.cli import main
from rlkd.errors import UserError
from rlkd.reporting import Result
from rlkd.training import jobs
from rlkd.training.compose import as_yaml, options
from rlkd.training.jobs import RunCells, make_executor
from rlkd.training.planning import LauncherOptions, launcher_and_others, plan
from rlkd.training.run_folder import RunFolder
from rlkd.training.stopping import Interrupted

pytestmark = pytest.mark.usefixtures("plainly")
pytest.importorskip("submitit")

Programs = Callable[..., None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Put programs of a SLURM cluster into the path, each a script of Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def add(**scripts: str) -> None:
        for name, script in scripts.items():
            path = folder / name
            path.write_text(f"#!{sys.executable}\n{script}\n")
            path.chmod(0o755)

    return add


def grid(teacher: Path, output: Path, *more: str) -> list[str]:
    kept = [each for each in tiny(teacher, output) if not each.startswith(("temperature", "seed"))]
    return [*kept, *more]


def launcher(*overrides: str) -> LauncherOptions:
    return launcher_and_others(overrides)[0]


def test_every_launcher_composes_and_is_no_part_of_a_run() -> None:
    assert options("launcher") == ["local", "submitit_local", "submitit_slurm"]
    clusters = {name: launcher(f"launcher={name}").cluster for name in options("launcher")}
    assert clusters == {"local": None, "submitit_local": "local", "submitit_slurm": "slurm"}
    chosen, others = launcher_and_others(
        ["seed=0,1", "launcher=submitit_slurm", "launcher.partition=gpu", "data=digits"]
    )
    assert (chosen.partition, chosen.nodes, others) == ("gpu", 1, ["seed=0,1", "data=digits"])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["launcher=slurm"], "launcher=slurm: did you mean submitit_slurm.*one of local"),
        (["launcher.partition=gpu"], "there is no setting launcher.partition"),
        (
            ["launcher=submitit_slurm", "launcher.timeout=5"],
            "there is no setting launcher.timeout: did you mean launcher.timeout_min",
        ),
        (["launcher=submitit_slurm", "launcher.nodes=many"], "launcher.nodes: .*many"),
        (["launcher=submitit_slurm", "launcher.cells_per_job=0"], "cells_per_job=0: give at least"),
    ],
)
def test_a_launcher_that_makes_no_sense_is_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        launcher(*overrides)


def test_a_job_of_this_machine_does_two_runs_and_one_that_fails_is_told_with_its_log(
    teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    # ctkd_instance is made for 100 classes and says so at its first batch; digits have 10
    swept = grid(teacher_file, out, "temperature=constant,ctkd_instance", "seed=0")
    as_jobs = ["launcher=submitit_local", "launcher.cells_per_job=2"]
    assert main(["compare", *swept, *as_jobs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"jobs to submit: 1, their logs in {out / 'jobs'}"
    ended = sorted(each for each in lines if re.search(",seed=0: (done|failed)", each))
    assert ended[0] == "temperature=constant,seed=0: done"
    assert_told(
        ended[1], r"temperature=ctkd_instance,seed=0: failed: .*num_classes.* \(log: (.*)\)"
    )
    log = Path(ended[1].rpartition("log: ")[2].rstrip(")"))
    assert log.is_file()
    assert log.parent == out / "jobs"
    assert RunFolder(out / "temperature=constant,seed=0").student.is_file()
    assert "1 of 2" not in (out / "compare.md").read_text()

    # what a job has done is complete to the process that asked for it, and gets no job again
    kept = grid(teacher_file, out, "temperature=constant", "seed=0,1")
    first, _ = plan(kept)
    assert jobs.attempt(first.config, silent()) is None
    written = RunFolder(first.path).student.stat().st_mtime_ns
    complete = list(jobs.in_jobs([first], launcher(*as_jobs), out / "jobs", silent()))
    assert complete == [(0, None)]
    assert RunFolder(first.path).student.stat().st_mtime_ns == written


def test_slurm_is_given_what_the_settings_say(tmp_path: Path, programs: Programs) -> None:
    programs(srun="")
    chosen = launcher(
        "launcher=submitit_slurm",
        "launcher.partition=gpu",
        "launcher.account=lab",
        "launcher.timeout_min=90",
        "launcher.nodes=2",
        "launcher.tasks_per_node=4",
        "launcher.gpus_per_node=4",
        "launcher.mem_gb=64",
        "launcher.array_parallelism=3",
        "launcher.setup=[module load cuda]",
        "launcher.additional={constraint: a100}",
    )
    executor = make_executor(chosen, tmp_path / "jobs")._executor
    executor.parameters["map_count"] = 6
    text = executor._make_submission_file_text("THE JOB", "an id")
    lines = text.splitlines()
    for expected in (
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --time=90",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=64GB",
        "#SBATCH --array=0-5%3",
        "#SBATCH --constraint=a100",
        "#SBATCH --signal=USR1@120",
        "export SUBMITIT_PREEMPT_SIGNAL=USR1",
        "module load cuda",
    ):
        assert expected in lines, text
    assert lines[-1].startswith("srun ")
    assert lines[-1].endswith("THE JOB")


def test_where_there_is_no_slurm_it_is_told(
    teacher_file: Path, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    swept = grid(teacher_file, tmp_path / "out", "seed=0,1")
    told = refuse("distill", "-m", *swept, "launcher=submitit_slurm")
    assert_told(told, "launcher.cluster=slurm takes no jobs here: .*srun.*launcher=local")
    monkeypatch.setitem(sys.modules, "submitit", None)
    told = refuse("distill", "-m", *swept, "launcher=submitit_slurm")
    assert_told(told, r"needs submitit .*: pip install 'rlkd\[slurm\]'")


def test_jobs_that_slurm_still_has_are_waited_for_and_not_submitted_again(
    teacher_file: Path, tmp_path: Path, programs: Programs
) -> None:
    out = tmp_path / "out"
    planned = plan(grid(teacher_file, out, "seed=0,1,2"))
    folder = tmp_path / "jobs"
    names = [each.path.name for each in planned]
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps({"7_0": [names[0]], "7_1": [names[1]]}))
    programs(sacct="print('JobID|State\\n7_0|RUNNING\\n7_1|FAILED')", srun="")
    chosen = launcher("launcher=submitit_slurm")
    (still,) = jobs._still_queued(planned, chosen, folder)
    assert (still.job.job_id, still.numbers) == ("7_0", [0])
    assert jobs._still_queued(planned, launcher("launcher=submitit_local"), folder) == []


def test_a_job_that_is_preempted_hands_the_signal_on_and_one_that_is_cancelled_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[int] = []
    by = [signal.SIGUSR1]

    def interrupted(*_: object) -> None:
        raise Interrupted(by[0], "it goes on")

    monkeypatch.setattr(jobs, "attempt", interrupted)
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        for each in (signal.SIGUSR1, signal.SIGTERM):
            by[0] = each
            with pytest.raises(Interrupted):
                RunCells()(["seed: 0"])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]
    again = RunCells().checkpoint(["seed: 0"])
    assert isinstance(again.function, RunCells)
    assert again.args == (["seed: 0"],)


@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on_by_itself(teacher_file: Path, tmp_path: Path) -> None:
    more = ("temperature=constant", "trainer.epochs=60", "trainer.evaluate_every=60")
    (planned,) = plan(tiny(teacher_file, tmp_path / "out", *more))
    executor = make_executor(launcher("launcher=submitit_local"), tmp_path / "jobs")
    (job,) = executor.map_array(RunCells(), [[as_yaml(planned.config)]])
    folder, deadline = RunFolder(planned.path), time.monotonic() + 120
    while folder.checkpoint is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (task,) = subprocess.check_output(["pgrep", "-P", job.job_id]).split()
    os.kill(int(task), signal.SIGUSR1)
    assert job.results() == [[None]]
    told = job.paths.stdout.read_text()
    assert "Requeued job" in told
    assert "resuming from" in told
    assert Result.read(folder.result).epochs == 60
