"""Runs as jobs of this machine, and what a job does when it is stopped."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from tests.support.job_runs import grid, launcher
from tests.support.refusal import assert_told
from tests.support.runs import silent, tiny

from rlkd.cli import main
from rlkd.config.compose import as_yaml, options
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.signals import Interrupted
from rlkd.errors import UserError
from rlkd.reporting import Result
from rlkd.sweep import submitit_jobs as jobs
from rlkd.sweep.plan import launcher_and_others, plan
from rlkd.sweep.submitit_jobs import RunCells, make_executor
from rlkd.text_files import read_object, write_object

pytestmark = pytest.mark.usefixtures("plainly")
submitit = pytest.importorskip("submitit")


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
        (
            ["launcher=submitit_slurm", "launcher.nodes=many"],
            "launcher.nodes=many: give a whole number",
        ),
        (
            ["launcher=submitit_slurm", "launcher.cells_per_job=0"],
            "cells_per_job=0: give a whole number",
        ),
    ],
)
def test_a_launcher_that_makes_no_sense_is_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        launcher(*overrides)


@pytest.mark.long
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
    fits_or_not = "trainer.validation_size=0,99"
    swept = grid(teacher_file, out, "temperature=constant", fits_or_not, *small)
    as_jobs = ["launcher=submitit_local", "launcher.cells_per_job=2"]
    assert main(["compare", *swept, *as_jobs]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"jobs to submit: 1, their logs in {out / 'jobs'}"
    ended = sorted(each for each in lines if re.search(",seed=0: (done|failed)", each))
    assert ended[0] == "trainer.validation_size=0,seed=0: done"
    assert_told(
        ended[1], r"trainer.validation_size=99,seed=0: failed: .*validation_size.* \(log: (.*)\)"
    )
    log = Path(ended[1].rpartition("log: ")[2].rstrip(")"))
    assert log.parent == out / "jobs"
    assert re.search(
        r"^Traceback .*validation_size", log.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    assert RunFolder(out / "trainer.validation_size=0,seed=0").student.is_file()
    assert "1 of 2" not in (out / "compare.md").read_text()
    (submitted,) = log.parent.glob("*_submitted.pkl")
    assert submitit.core.utils.DelayedSubmission.load(submitted).args[1] == "5"
    (outcome,) = log.parent.glob("*_0_result.json")
    assert [each is None for each in read_object(outcome, "")["outcomes"]] == [True, False]

    # what a job has done is complete to the process that asked for it, and gets no job again
    first, _ = plan(swept)
    written = RunFolder(first.path).student.stat().st_mtime_ns
    complete = list(jobs.in_jobs([first], launcher(*as_jobs), out / "jobs", silent()))
    assert complete == [(0, None)]
    assert RunFolder(first.path).student.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("visible", "per_job", "taken", "given"),
    [
        ("0,1,2,3", 1, [], ["0", "1", "2"]),
        ("GPU-7,5,3", 1, ["5"], ["GPU-7", "3", "GPU-7"]),  # one is left over: two jobs share
        ("0,1,2,3", 2, ["0,1"], ["2,3", "0,1", "2,3"]),
        ("0,1,2", 2, [], ["0,1", "0,1", "0,1"]),  # the third is half of what a job is to have
        ("5", 2, [], ["5", "5", "5"]),
        ("", 1, [], ["", "", ""]),
    ],
)
def test_jobs_of_this_machine_have_gpus_of_their_own(
    visible: str,
    per_job: int,
    taken: list[str],
    given: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    here = launcher("launcher=submitit_local", f"launcher.gpus_per_node={per_job}")
    assert jobs._free_gpus(here, taken, 3) == given


def test_where_no_gpu_is_named_jobs_share_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here = launcher("launcher=submitit_local")
    monkeypatch.setattr(jobs.torch.cuda, "device_count", lambda: 2)
    assert jobs._free_gpus(here, ["0"], 2) == ["1", "0"]
    assert jobs._free_gpus(launcher("launcher=submitit_slurm"), [], 2) == [None, None]
    assert jobs._free_gpus(
        launcher("launcher=submitit_local", "launcher.gpus_per_node=0"), [], 1
    ) == [None]


def test_jobs_that_run_at_once_are_submitted_with_gpus_of_their_own(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Job:
        job_id = "1"

        def done(self) -> bool:
            return True

        def task(self, _: int) -> Mock:
            return Mock(paths=Mock(result_pickle=tmp_path / "1_0_result.pkl"))

    class Executor:
        def map_array(self, _: RunCells, settings: list[str], gpus: list[str]) -> list[Job]:
            submitted.append(gpus)
            return [Job() for _ in settings]

    submitted: list[list[str]] = []
    write_object(tmp_path / "1_0_result.json", {"outcomes": [None]})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(jobs, "make_executor", lambda *_: Executor())
    planned = plan(grid(teacher_file, tmp_path / "out", "seed=0,1,2,3,4"))
    here = launcher("launcher=submitit_local", "launcher.array_parallelism=4")
    outcomes = dict(jobs.in_jobs(planned, here, tmp_path / "jobs", silent()))
    assert submitted == [["0", "1", "2", "3"], ["0"]]
    assert outcomes == dict.fromkeys(range(5))


def test_a_job_sees_the_gpus_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(*_: object) -> None:
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])

    found: list[str] = []
    monkeypatch.setattr(jobs, "attempt", seen)
    for given, expected in (("GPU-7,5", "GPU-7,5"), ("", ""), (None, "0,1")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # as submitit has it
        assert RunCells()(["seed: 0"], given) == [None]
        assert found.pop() == expected


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
            RunCells()(["seed: 0"], None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == ([signal.SIGUSR1] if hands_on else [])
    assert held == ([60.0] if holds else [])


def test_a_job_that_is_put_back_does_the_same_again() -> None:
    again = RunCells().checkpoint(["seed: 0"], "3")
    assert again.function == RunCells()
    assert again.args == (["seed: 0"], "3")


@pytest.mark.long
def test_a_job_that_is_preempted_goes_on_by_itself(teacher_file: Path, tmp_path: Path) -> None:
    more = ("temperature=constant", "trainer.epochs=60", "trainer.evaluate_every=60")
    (planned,) = plan(tiny(teacher_file, tmp_path / "out", *more))
    executor = make_executor(launcher("launcher=submitit_local"), tmp_path / "jobs")
    (job,) = executor.map_array(RunCells(), [[as_yaml(planned.config)]], [None])
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
