"""Jobs of a SLURM cluster, by what its programs are given and say."""

import io
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.support.job_runs import grid, launcher
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import silent

from rlkd.engine.signals import Interrupted
from rlkd.errors import UserError
from rlkd.sweep import submitit_jobs as jobs
from rlkd.sweep.plan import plan
from rlkd.sweep.submitit_jobs import make_executor
from rlkd.text_files import read_object, write_object

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
    assert_told(told, r"needs submitit .*: pip install submitit")


def test_jobs_that_slurm_still_has_are_waited_for_and_not_submitted_again(
    tmp_path: Path, programs: Programs
) -> None:
    states = {"7_0": "RUNNING", "7_1": "FAILED", "7_2": "PREEMPTED", "7_3": "COMPLETED"}
    table = "".join(f"\\n{name}|{state}" for name, state in states.items())
    programs(sacct=f"print('JobID|State{table}')", srun="")
    kept = tmp_path / "jobs.json"
    write_object(kept, {"jobs": {each: [f"of {each}"] for each in (*states, "8")}})
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
    monkeypatch.setattr(jobs, "_UNTIL_SEEN", 0)
    folder = tmp_path / "jobs"
    folder.mkdir()
    planned = plan(grid(teacher_file, tmp_path / "out", "seed=0,1,2,3"))
    names = [each.path.name for each in planned]
    # 20 has done a run that nobody asks for any more; 21 has broken; 22 was killed; 23 is not ours
    before = {"20": ["old", names[0]], "21": [names[1]], "22": [names[2]], "23": ["other"]}
    write_object(folder / "jobs.json", {"jobs": before})

    for job in ("20", "21"):
        (folder / f"{job}_0_result.pkl").write_bytes(b"is not read")
    write_object(folder / "20_0_result.json", {"outcomes": ["of the old", None]})
    (folder / "21_0_log.out").write_text("Traceback:\n  somewhere\nValueError: no\n")
    (folder / "22_0_log.out").write_text("epoch 1\nslurmstepd: error: oom_kill event\n\n")
    done = {"20": "RUNNING", "21": "RUNNING", "22": "OUT_OF_MEMORY", "23": "RUNNING"}
    first, answer = tmp_path / "asked", '{"format": 1, "outcomes": [null]}'
    programs(
        srun="",
        # 22 ends when 24 is submitted
        sacct=f"import pathlib\nasked = pathlib.Path({str(first)!r}).exists()\n"
        "print('JobID|State')\n"
        f"for name, state in {done!r}.items():\n"
        "    print(name, state if asked else 'RUNNING', sep='|')",
        sbatch="import pathlib\n"
        f"pathlib.Path({str(first)!r}).touch()\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "(folder / '24_0_result.pkl').touch()\n"
        f"(folder / '24_0_result.json').write_text({answer!r})\n"
        "print('Submitted batch job 24')",
    )
    said = io.StringIO()
    console = Console(file=said, width=1000)
    outcomes = dict(jobs.in_jobs(planned, launcher("launcher=submitit_slurm"), folder, console))
    assert read_object(folder / "jobs.json", "") == {"jobs": {**before, "24": [names[3]]}}
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


def test_a_job_that_was_submitted_as_ctrl_c_came_is_remembered(
    teacher_file: Path, tmp_path: Path, programs: Programs
) -> None:
    programs(
        srun="",
        sbatch="import os, signal\n"
        "for each in (os.getppid(), os.getpid()): os.kill(each, signal.SIGINT)\n"
        "print('Submitted batch job 24')",
    )
    planned, folder = plan(grid(teacher_file, tmp_path / "out", "seed=0")), tmp_path / "jobs"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers have none
    try:
        with pytest.raises(Interrupted, match="the same command waits for jobs 24 again"):
            list(jobs.in_jobs(planned, launcher("launcher=submitit_slurm"), folder, silent()))
    finally:
        signal.signal(signal.SIGINT, before)
    kept = {"format": 1, "jobs": {"24": [planned[0].path.name]}}
    assert json.loads((folder / "jobs.json").read_text()) == kept


class Planted:
    """Makes a file where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


def test_what_somebody_left_in_the_folder_of_jobs_is_never_run(
    teacher_file: Path, tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_UNTIL_SEEN", 0)
    folder, ran = tmp_path / "jobs", tmp_path / "ran"
    folder.mkdir()
    planned = plan(grid(teacher_file, tmp_path / "out", "seed=0,1"))
    write_object(folder / "jobs.json", {"jobs": {"123": [planned[0].path.name]}})
    code = pickle.dumps(Planted(ran))
    for name in ("123_0_result.pkl", "124_submitted.pkl", "124_0_result.pkl"):
        (folder / name).write_bytes(code)
    (folder / "124_0_log.out").symlink_to(ran)
    programs(
        srun="",
        sacct="print('JobID|State\\n123|RUNNING\\n124|FAILED')",
        sbatch="import pathlib\n"
        f"left = sorted(each.name for each in pathlib.Path({str(folder)!r}).glob('124*'))\n"
        "assert not left, left\n"
        "print('Submitted batch job 124')",
    )
    outcomes = dict(jobs.in_jobs(planned, launcher("launcher=submitit_slurm"), folder, silent()))
    log = str(folder / "{}_0_log.out")
    assert outcomes == {
        0: f"it left no outcome (log: {log.format(123)})",
        1: f"FAILED: it left no outcome (log: {log.format(124)})",
    }
    assert not ran.exists()


def test_a_list_of_jobs_from_the_future_keeps_no_job_that_slurm_does_not_know(
    tmp_path: Path, programs: Programs
) -> None:
    programs(sacct="print('JobID|State')", srun="")
    kept = tmp_path / "jobs.json"
    write_object(kept, {"jobs": {"8": ["a"]}})
    os.utime(kept, (0, time.time() + 10**6))
    assert jobs._still_queued(launcher("launcher=submitit_slurm"), tmp_path) == []


@pytest.mark.parametrize("held", [{"../8": ["a"]}, {"8": [[]]}, {"8": "a"}, []])
def test_what_lists_no_jobs_is_refused(held: object, tmp_path: Path) -> None:
    write_object(tmp_path / "jobs.json", {"jobs": held})
    with pytest.raises(UserError, match=r"lists no jobs: remove it once squeue shows"):
        jobs._still_queued(launcher("launcher=submitit_slurm"), tmp_path)
