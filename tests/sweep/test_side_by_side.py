"""Runs side by side: the same bits as one by one, and what happens when one or all are ended."""

import fcntl
import io
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console
from tests.support.job_runs import grid
from tests.support.refusal import Refuse
from tests.support.runs import silent, tiny_config

from rlkd.commands.compare import compare, multirun
from rlkd.engine.lock import LOCK
from rlkd.errors import UserError, notice
from rlkd.sweep import nursery
from rlkd.sweep import side_by_side as sides
from rlkd.sweep.nursery import Tried
from rlkd.sweep.plan import Planned

pytestmark = pytest.mark.usefixtures("plainly")

ODD = """
import os
import signal
import time

import torch
from torch import nn


class Odd(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.layer = nn.Linear(64 * in_channels, num_classes)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == AT:
            DEED
        return self.layer(x.flatten(1))


def odd(num_classes, in_channels):
    return Odd(num_classes, in_channels)
"""


def own_network(folder: Path, name: str, deed: str, at: int = 6) -> str:
    (folder / f"{name}.py").write_text(ODD.replace("DEED", deed).replace("AT", str(at)))
    return f"{name}:odd"


@pytest.mark.long
@pytest.mark.parametrize("store", [(), ("teacher.cache={}",)])
def test_runs_side_by_side_are_those_one_by_one_to_the_bit(
    teacher_file: Path, tmp_path: Path, store: tuple[str, ...]
) -> None:
    for name, jobs in (("one", "jobs=1"), ("many", "jobs=4"), ("auto", "jobs=auto")):
        more = [each.format(tmp_path / f"store_{name}") for each in store]
        swept = ("temperature=constant,rlkd", "probe.size=16", "seed=0,1")
        given = grid(teacher_file, tmp_path / name, *swept, *more, jobs)
        compared = compare(given, console=silent())
        assert [row.n for row in compared.rows] == [2, 2]
    for each in sorted((tmp_path / "one").glob("*/student.safetensors")):
        inside = each.relative_to(tmp_path / "one")
        assert each.read_bytes() == (tmp_path / "many" / inside).read_bytes()
        assert each.read_bytes() == (tmp_path / "auto" / inside).read_bytes()
    plain = grid(teacher_file, tmp_path / "plain", *swept, *more)  # one thread, in this process
    compare(plain, console=silent())
    for each in sorted((tmp_path / "plain").glob("*/student.safetensors")):
        inside = each.relative_to(tmp_path / "plain")
        assert each.read_bytes() == (tmp_path / "one" / inside).read_bytes()


def test_a_run_that_fails_or_is_killed_stops_no_other(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "pickle.py").write_text("raise SystemExit('not mine to run')")
    raising = own_network(tmp_path, "raising", "raise RuntimeError('a reason')")
    killed = own_network(tmp_path, "killed", "os.kill(os.getpid(), signal.SIGKILL)")
    ended = own_network(tmp_path, "ended", "os.kill(os.getpid(), signal.SIGTERM)")
    wordy = own_network(tmp_path, "wordy", "raise RuntimeError(200_000 * 'word ')")
    students = ",".join(f"'{each}'" for each in (raising, killed, ended, wordy))
    given = [
        *grid(teacher_file, tmp_path / "out", f"student='convnet_tiny',{students}"),
        *("temperature=constant", "seed=0", "jobs=2", "trust=raising,killed,ended,wordy"),
    ]
    with pytest.raises(
        UserError, match=r"^4 of 5 runs failed, the first with: RuntimeError: a reas"
    ):
        compare(given, console=silent())
    table = (tmp_path / "out" / "runs.csv").read_text()
    assert "its process was ended by SIGKILL, as for want of memory: lower jobs" in table
    assert "RuntimeError: a reason" in table
    assert "it was stopped by SIGTERM; the same command goes on" in table
    assert "RuntimeError: word word" in table
    (done,) = (tmp_path / "out").glob("*/student.safetensors")
    assert "convnet_tiny" in str(done)
    (log,) = (tmp_path / "out" / "logs").glob("*raising*")
    assert "Traceback" in log.read_text()


@pytest.mark.long
def test_a_comparison_is_stopped_while_combinations_are_tried(
    teacher_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n" + ODD)
    swept = ("temperature=constant,ctkd", "seed=0", "student=slow:odd", "trust=slow", "jobs=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "rlkd", "compare", *grid(teacher_file, tmp_path / "out", *swept)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    time.sleep(25)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "no run was begun" in errors


def started(given: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a comparison, and wait until a run of it has a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rlkd", "compare", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/checkpoints/*.ckpt"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.long
@pytest.mark.parametrize(("by", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_comparison_that_is_asked_to_stop_saves_every_run_and_goes_on(
    teacher_file: Path, tmp_path: Path, by: signal.Signals, code: int
) -> None:
    swept = ("temperature=constant", "seed=0,1", "trainer.epochs=60", "trainer.evaluate_every=60")
    given = grid(teacher_file, tmp_path / "out", *swept, "method=kd,dkd", "jobs=2")
    process = started(given, tmp_path / "out")
    process.send_signal(by)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert errors.count("\n") == 1
    assert "every run has saved its checkpoint; the same command goes on" in errors
    assert not list((tmp_path / "out").glob("*/.lock"))
    compare(given, console=silent())
    whole = [each.replace(str(tmp_path / "out"), str(tmp_path / "whole")) for each in given]
    compare(whole, console=silent())
    for each in sorted((tmp_path / "whole").glob("*/student.safetensors")):
        other = tmp_path / "out" / each.relative_to(tmp_path / "whole")
        assert each.read_bytes() == other.read_bytes()


def held(folder: Path) -> bool:
    """Whether a process has a run folder; one that was ended as it began leaves its file there."""
    with suppress(FileNotFoundError), (folder / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.long
def test_runs_end_with_the_comparison_that_was_killed(teacher_file: Path, tmp_path: Path) -> None:
    swept = ("temperature=constant", "seed=0,1", "trainer.epochs=4000", "method=kd,dkd")
    process = started(grid(teacher_file, tmp_path / "out", *swept, "jobs=2"), tmp_path / "out")
    folders = list((tmp_path / "out").glob("*=*"))
    assert any(held(each) for each in folders)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 120
    while any(held(each) for each in folders):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(list((tmp_path / "out").glob("*/checkpoints/*.ckpt"))) >= 2


def test_a_combination_that_does_not_fit_is_refused_before_any_is_trained(
    teacher_file: Path, tmp_path: Path, refuse: Refuse
) -> None:
    sizes = ("temperature=constant", "trainer.validation_size=0,99", "jobs=2")
    said = refuse("compare", *grid(teacher_file, tmp_path / "out", *sizes))
    assert "trainer.validation_size=99 cannot be trained, so no run was begun: " in said


@pytest.mark.parametrize("jobs", ["0", "-1", "many", "1.5", "", "100000"])
def test_a_number_of_jobs_that_is_none_is_refused(
    teacher_file: Path, tmp_path: Path, refuse: Refuse, jobs: str
) -> None:
    given = grid(teacher_file, tmp_path / "out", "temperature=constant,ctkd", f"jobs={jobs}")
    assert f"jobs={jobs}: give auto, or 1 to 1024 runs at a time" in refuse("compare", *given)


def test_jobs_of_a_cluster_are_counted_by_its_launcher(
    teacher_file: Path, tmp_path: Path, refuse: Refuse
) -> None:
    given = grid(teacher_file, tmp_path / "out", "temperature=constant,ctkd", "jobs=2")
    assert "jobs=2 is for launcher=local" in refuse("compare", *given, "launcher=submitit_slurm")


def planned(tmp_path: Path, count: int, *more: str) -> list[Planned]:
    return [
        Planned({"x": str(number)}, tiny_config(tmp_path / "t", tmp_path / f"{number}", *more))
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("jobs", "free", "threads", "expected"),
    [(None, 80, 1, 8), (None, 3.5, 1, 3), (None, 0.5, 1, 1), (None, 80, 3, 2), (5, 80, 1, 5)],
)
def test_as_many_run_at_once_as_there_are_processors_and_memory_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jobs: int | None,
    free: float,
    threads: int,
    expected: int,
) -> None:
    monkeypatch.setattr(sides, "cores", lambda: 8)
    monkeypatch.setattr(sides, "_free_memory", lambda: int(free * 2**30))
    runs = planned(tmp_path, 20, f"trainer.threads={threads}")
    tried = [Tried(memory=2**29), Tried(memory=2**30)]
    assert sides._count(runs, range(20), jobs, tried) == expected


def test_more_jobs_than_there_is_memory_for_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides, "_free_memory", lambda: 4 * 2**30)
    with pytest.raises(UserError, match=r"jobs=9: a run needs 1\.00 GiB .* 3 have room: .* jobs=3"):
        sides._count(planned(tmp_path, 20), range(20), 9, [Tried(memory=2**30)])
    assert sides._count(planned(tmp_path, 20), range(3), 9, [Tried(memory=2**30)]) == 3


def test_the_table_counts_runs_and_says_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(sides.time, "monotonic", lambda: now[0])
    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    table = sides._Table(console, planned(tmp_path, 6), range(1, 6))
    table.drawn([(0, 0), (0.01, 10), (0.01, 10), (0, 0), (0, 0), (0, 0)])
    table.ended(1, None)
    table.ended(4, "a reason")
    now[0] = 160.0
    console.print(table.drawn([(0, 0), (1, 10), (0.51, 123), (0.25, 77), (0, 0), (0, 0)]))
    shown = console.export_text()
    assert "1 done, 1 failed, 2 running, 1 to come" in shown
    assert re.search(r"51 %\s+123", shown)
    assert re.search(r"left\s+200", shown)
    # 2.5 runs in a minute (two ended, 0.5 of the third; the fourth was first seen at 0.25), and
    # 2.24 are left.
    assert "0:00:54 left" in shown


def test_a_log_has_a_line_of_progress_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(sides.time, "monotonic", lambda: now[0])
    console = Console(width=160, file=io.StringIO())
    table = sides._Table(console, planned(tmp_path, 3), range(3))
    for second in range(301):
        now[0] = 100.0 + second
        table.show([(second / 400, 10.0), (second / 400, 10.0), (0.0, 0.0)])
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 3  # after 30 s, then after 60 and 120 more
    assert lines[0].startswith("0 done, 2 running, 1 to come; ")
    first, second = (each.path.name for each in planned(tmp_path, 2))
    assert f"; {first} 52 %; {second} 52 %; " in lines[2]
    # 2 x 209 / 400 runs since they were first seen, in 210 s; 3 - 2 x 210 / 400 are left
    assert lines[2].endswith("; 0:06:32 left")


def test_several_seeds_run_side_by_side_by_multirun_too(teacher_file: Path, tmp_path: Path) -> None:
    given = grid(teacher_file, tmp_path / "out", "temperature=constant", "seed=0,1", "jobs=2")
    multirun(given, console=silent())
    assert len(list((tmp_path / "out").glob("*/result.json"))) == 2


def test_processes_that_load_images_take_processors_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides, "cores", lambda: 10)
    runs = planned(tmp_path, 20)
    for each in runs:
        OmegaConf.update(each.config, "data.workers", 4, force_add=True)
    assert sides._count(runs, range(20), None, []) == 2


def test_gpu_memory_that_is_short_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "_free_memory", lambda: 100 * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * 2**30, 80 * 2**30))
    tried = [Tried(memory=2**30, device_memory=int(1.4 * 2**30))]
    told = r"a run needs 2\.00 GiB of GPU memory, and of 8\.00 GiB .* 3 have room"
    with pytest.raises(UserError, match=told):
        sides._count(planned(tmp_path, 9), range(9), 9, tried)


def test_a_signal_that_comes_after_the_last_run_is_passed_over() -> None:
    here, there = Pipe()
    for each in (signal.SIGINT, ("try", [0], 1)):
        here.send(each)
    assert nursery._asked(there) == ("try", [0], 1)


def test_notices_that_are_passed_on_are_short() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(20):
            notice(f"{number}" * 9999)
            notice(f"{number}" * 9999)
        warnings.warn("of a library", RuntimeWarning, stacklevel=1)
    said = nursery._said(caught)
    assert len(said) == 8
    assert sum(map(len, said)) < 2**15
    assert nursery._said(caught[-1:]) == ()
