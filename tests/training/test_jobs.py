"""Runs as jobs: submitit's local executor for real, SLURM's by what it would be given."""

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
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
submitit = pytest.importorskip("submitit")

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
    teacher_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.05)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-6")
    out = tmp_path / "out"
    small = ("seed=0", "data.limit=16", "trainer.epochs=1")
    # ctkd_instance is made for 100 classes and says so at its first batch; digits have 10
    swept = grid(teacher_file, out, "temperature=constant,ctkd_instance", *small)
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
    assert log.parent == out / "jobs"
    assert re.search(r"^Traceback .*num_classes", log.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert RunFolder(out / "temperature=constant,seed=0").student.is_file()
    assert "1 of 2" not in (out / "compare.md").read_text()
    (submitted,) = log.parent.glob("*_submitted.pkl")
    assert submitit.core.utils.DelayedSubmission.load(submitted).function == RunCells(gpus="5")

    # what a job has done is complete to the process that asked for it, and gets no job again
    first, _ = plan(swept)
    written = RunFolder(first.path).student.stat().st_mtime_ns
    complete = list(jobs.in_jobs([first], launcher(*as_jobs), out / "jobs", silent()))
    assert complete == [(0, None)]
    assert RunFolder(first.path).student.stat().st_mtime_ns == written


def test_a_job_of_this_machine_sees_no_other_gpus_than_its_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seen(*_: object) -> None:
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])

    found: list[str] = []
    monkeypatch.setattr(jobs, "attempt", seen)
    here = launcher("launcher=submitit_local", "launcher.gpus_per_node=2")
    for own, expected in (("GPU-7,5,3", "GPU-7,5"), ("", "")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)
        gpus = jobs._own_gpus(here)
        assert jobs._own_gpus(launcher("launcher=submitit_slurm")) is None
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # as submitit has it
        assert RunCells(gpus)(["seed: 0"]) == [None]
        assert found.pop() == expected
    assert RunCells()(["seed: 0"]) == [None]
    assert found == [""]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert jobs._own_gpus(here) is None


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
    tmp_path: Path, programs: Programs
) -> None:
    states = {"7_0": "RUNNING", "7_1": "FAILED", "7_2": "PREEMPTED", "7_3": "COMPLETED"}
    table = "".join(f"\\n{name}|{state}" for name, state in states.items())
    programs(sacct=f"print('JobID|State{table}')", srun="")
    kept = tmp_path / "jobs.json"
    kept.write_text(json.dumps({each: [f"of {each}"] for each in (*states, "8")}))
    chosen = launcher("launcher=submitit_slurm")

    def still() -> dict[str, list[str]]:
        return {each.job.job_id: each.names for each in jobs._still_queued(chosen, tmp_path)}

    going_on = {"7_0": ["of 7_0"], "7_2": ["of 7_2"]}
    assert still() == {**going_on, "8": ["of 8"]}  # 8 is too young for the accounting
    os.utime(kept, (0, time.time() - 3600))
    assert still() == going_on
    assert jobs._still_queued(launcher("launcher=submitit_local"), tmp_path) == []


def test_a_sweep_that_changes_keeps_the_jobs_of_the_earlier_one(
    teacher_file: Path, tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitit.SlurmJob, "_results_timeout_s", 0)
    folder = tmp_path / "jobs"
    folder.mkdir()
    planned = plan(grid(teacher_file, tmp_path / "out", "seed=0,1,2,3"))
    names = [each.path.name for each in planned]
    # 20 has done a run that nobody asks for any more; 21 has broken; 22 was killed; 23 is not ours
    before = {"20": ["old", names[0]], "21": [names[1]], "22": [names[2]], "23": ["other"]}
    (folder / "jobs.json").write_text(json.dumps(before))

    def leave(job: str, outcome: tuple[str, object]) -> None:
        (folder / f"{job}_0_result.pkl").write_bytes(pickle.dumps(outcome))

    leave("20", ("success", ["of the old", None]))
    leave("21", ("error", "Traceback (most recent call last):\n  somewhere\nValueError: no\n"))
    (folder / "22_0_log.out").write_text("epoch 1\nslurmstepd: error: oom_kill event\n\n")
    done = {"20": "RUNNING", "21": "RUNNING", "22": "OUT_OF_MEMORY", "23": "RUNNING"}
    first = tmp_path / "asked"
    programs(
        srun="",
        # 22 ends when 24 is submitted
        sacct=f"import pathlib\nasked = pathlib.Path({str(first)!r}).exists()\nprint('JobID|State')\n"
        f"for name, state in {done!r}.items():\n"
        "    print(name, state if asked else 'RUNNING', sep='|')",
        sbatch="import pathlib, pickle\n"
        f"pathlib.Path({str(first)!r}).touch()\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "(folder / '24_0_result.pkl').write_bytes(pickle.dumps(('success', [None])))\n"
        "print('Submitted batch job 24')",
    )
    said = io.StringIO()
    console = Console(file=said, width=1000)
    outcomes = dict(jobs.in_jobs(planned, launcher("launcher=submitit_slurm"), folder, console))
    assert json.loads((folder / "jobs.json").read_text()) == {**before, "24": [names[3]]}
    log = str(folder / "{}_0_log.out")
    assert outcomes == {
        0: None,
        1: f"ValueError: no (log: {log.format(21)})",
        2: f"OUT_OF_MEMORY: slurmstepd: error: oom_kill event (log: {log.format(22)})",
        3: None,
    }
    told = said.getvalue()
    assert "jobs that go on: 20, 21, 22\n" in told
    assert "jobs to submit: 1," in told


def test_what_sbatch_refuses_is_told_in_its_words(
    teacher_file: Path, tmp_path: Path, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "sbatch: error: Batch job submission failed:\\nInvalid account"
    programs(srun="", sbatch=f"import sys; sys.exit('{said}')")
    planned = plan(grid(teacher_file, tmp_path / "out", "seed=0,1"))
    chosen = launcher("launcher=submitit_slurm")
    with pytest.raises(UserError) as refused:
        list(jobs.in_jobs(planned, chosen, tmp_path / "jobs", silent()))
    assert_told(str(refused.value), "^launcher.cluster=slurm .*: Invalid account; correct launcher")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("by", "executor", "hands_on", "holds"),
    [
        (signal.SIGUSR1, "slurm", True, True),  # at another rank than 0, submitit's handler returns
        (signal.SIGTERM, "slurm", False, True),
        (signal.SIGINT, "slurm", False, False),
        (signal.SIGUSR1, "local", True, False),
        (signal.SIGTERM, "local", False, False),
    ],
)
def test_a_job_that_is_stopped_hands_the_signal_on_and_leaves_slurm_to_end_it(
    by: signal.Signals,
    executor: str,
    hands_on: bool,
    holds: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[int] = []
    held: list[float] = []

    def interrupted(*_: object) -> None:
        raise Interrupted(by, "it goes on")

    monkeypatch.setattr(jobs, "attempt", interrupted)
    monkeypatch.setattr(jobs.time, "sleep", held.append)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with pytest.raises(Interrupted):
            RunCells()(["seed: 0"])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == ([signal.SIGUSR1] if hands_on else [])
    assert held == ([60.0] if holds else [])


def test_a_job_that_is_put_back_does_the_same_again() -> None:
    again = RunCells(gpus="3").checkpoint(["seed: 0"])
    assert again.function == RunCells(gpus="3")
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
