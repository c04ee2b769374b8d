"""The clock: steps, and the wait for data between them."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.support.runs import silent, tiny

from rlkd.distributed import Rank
from rlkd.engine.callbacks import checkpoint, metrics, progress
from rlkd.engine.callbacks.progress import Clock, ShowProgress
from rlkd.engine.meters import EpochMeters
from rlkd.engine.run import distill
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import read_metrics

pytestmark = pytest.mark.usefixtures("plainly")
NOTHING: Any = None


class Hours:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class SlowLoader:
    """Batches of 5 that take 3 to load; after the last, 1 to find that there is none."""

    def __init__(self, time: Hours, count: int) -> None:
        self.time, self.count = time, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.count):
            self.time.now += 3
            yield SimpleNamespace(index=range(5))
        self.time.now += 1


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    time = Hours()
    monkeypatch.setattr(progress, "time", time)
    return time


def train(clock: Clock, loader: Any, hours: Hours) -> None:
    """Steps of 1, each with a checkpoint of 100 after it."""
    for batch in clock.timed(loader):
        clock.on_train_batch_start(NOTHING, NOTHING, batch, 0)
        hours.now += 1
        clock.on_train_batch_end(NOTHING, NOTHING, NOTHING, batch, 0)
        hours.now += 100


def test_waiting_for_data_is_told_from_steps_and_from_what_else_takes_time(hours: Hours) -> None:
    clock = Clock()
    assert clock.data_share == 0
    loader = SlowLoader(hours, 4)
    assert len(clock.timed(loader)) == 4
    clock.on_train_epoch_start(NOTHING, NOTHING)
    train(clock, loader, hours)
    assert (clock.seconds, clock.data_seconds, clock.images) == (4, 12, 20)
    assert clock.data_share == clock.epoch_data_share == 0.75
    assert clock.images_per_second == 5
    assert clock.loading_binds

    resumed = Clock()
    resumed.load_state_dict(clock.state_dict())
    assert resumed.seconds_before == 16
    assert (resumed.data_share, resumed.epoch_data_share) == (0.75, 0.75)  # within the same epoch
    resumed.on_train_epoch_start(NOTHING, NOTHING)
    assert (resumed.data_share, resumed.epoch_data_share) == (0.75, 0)
    assert not resumed.loading_binds


def test_less_than_a_second_an_epoch_binds_nothing(hours: Hours) -> None:
    clock = Clock()
    clock.waited(0.9)
    assert (clock.epoch_data_share, clock.loading_binds) == (1, False)
    clock.waited(0.2)
    assert clock.loading_binds
    clock.load_state_dict({"images": 0, "seconds": 0, "data_seconds": 2.0, "epoch": [8.0, 2.0]})
    assert (clock.epoch_data_share, clock.loading_binds) == (0.2, False)


def test_images_are_those_of_all_ranks(hours: Hours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "distributed", SimpleNamespace(this_rank=lambda: Rank(1, 4)))
    clock = Clock()
    train(clock, SlowLoader(hours, 2), hours)
    assert clock.images == 2 * 5 * 4


def test_a_gpus_lag_counts_once_as_training_and_no_step_waits_for_it(
    hours: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag, waits = 8.0, list[float]()

    def synchronize(device: object) -> None:
        nonlocal lag
        waits.append(lag)
        hours.now, lag = hours.now + lag, 0

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    clock = Clock("cuda")
    clock.on_train_epoch_start(NOTHING, NOTHING)
    train(clock, SlowLoader(hours, 4), hours)
    assert (clock.seconds, waits) == (4, [])
    for _ in range(2):
        clock.settle()
    assert (clock.seconds, clock.data_seconds, waits) == (12, 12, [8, 0])
    assert (clock.images_per_second, clock.epoch_data_share) == (20 / 12, 0.5)


def test_whoever_reads_the_device_lets_the_clock_settle_first(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled, readers = True, Counter[str]()

    def step(*_: object) -> None:
        nonlocal settled
        settled = False

    def settle(_: Clock) -> None:
        nonlocal settled
        settled = True

    def reading(where: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*arguments: object) -> Any:
            assert settled, f"{where} waits for the device and no clock counts it"
            readers[where] += 1
            return read(*arguments)

        return checked

    monkeypatch.setattr(Clock, "on_train_batch_start", step)
    monkeypatch.setattr(Clock, "settle", settle)
    for where in (progress, checkpoint, metrics):
        name = where.__name__.rpartition(".")[2]
        monkeypatch.setattr(where, "check_finite", reading(name, where.check_finite))
    monkeypatch.setattr(EpochMeters, "read", reading("meters", EpochMeters.read))
    settings = ("trainer.epochs=1", "trainer.log_every_steps=2", "trainer.checkpoint_every_steps=1")
    settings = ("temperature=constant", *settings)
    distill(tiny(teacher_file, tmp_path / "run", *settings), console=silent())
    assert readers == {"progress": 1, "checkpoint": 3, "metrics": 1, "meters": 2}


def distilled(teacher: Path, folder: RunFolder, *more: str) -> list[str]:
    console = Console(record=True, width=200, force_terminal=False)
    settings = ("temperature=constant", "trainer.epochs=2", *more)
    distill(tiny(teacher, folder.path, *settings), console=console)
    return console.export_text().splitlines()


def test_every_epoch_tells_the_share_of_loading(teacher_file: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    lines = distilled(teacher_file, folder)
    assert sum(" data " in each and each.startswith("epoch ") for each in lines) == 2
    shares = [row["time/data_share"] for row in read_metrics(folder.metrics)]
    assert len(shares) == 2
    assert all(0 < each < 1 for each in shares)


@pytest.mark.parametrize(("binds", "times"), [(True, 1), (False, 0)])
def test_loading_that_takes_long_is_told_once(
    binds: bool,
    times: int,
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Clock, "epoch_data_share", 0.634)
    monkeypatch.setattr(Clock, "loading_binds", binds)
    lines = distilled(teacher_file, RunFolder(tmp_path / "run"))
    told = [each for each in lines if each.startswith("loading takes 63 % of the time: ")]
    assert len(told) == times


@pytest.mark.parametrize(
    "terms", [("method=kd", "loss %s = cross_entropy %s + kd %s"), ("method=alone", "loss %s")]
)
def test_every_epoch_tells_the_terms_of_the_loss_and_the_time_left(
    terms: tuple[str, str], teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, words = terms
    times = iter(range(0, 10**6, 10))
    monkeypatch.setattr(ShowProgress, "_left", lambda _, step: f"{next(times)} s, {step} steps")
    folder = RunFolder(tmp_path / "run")
    lines = distilled(
        teacher_file, folder, method, *(("teacher=none",) if "alone" in method else ())
    )
    rows = read_metrics(folder.metrics)
    epochs = [each for each in lines if each.startswith("epoch ")]
    for epoch, (line, row) in enumerate(zip(epochs, rows, strict=True), start=1):
        figures = [f"{row[each]:.3f}" for each in row if each.startswith("train/loss")]
        assert f"epoch {epoch}/2  {words % tuple(figures[: words.count('%s')])}  train acc " in line
        assert f" %  test top-1 {100 * row['test/top1']:.2f} %  " in line
        assert line.endswith(f" {10 * (epoch - 1)} s, {3 * epoch} steps left")


def test_the_time_left_is_that_of_the_steps_left_at_the_pace_of_this_process(hours: Hours) -> None:
    shown = ShowProgress(NOTHING, NOTHING, NOTHING, every_steps=1)
    shown._began, shown._first, shown._total = 100.0, 40, 100
    hours.now = 400.0
    assert shown._left(60) == "0:10:00"  # 20 steps took 300 seconds, 40 are left
    assert shown._left(100) == "0:00:00"
    hours.now = 100.0 + 20 * 3600
    assert shown._left(60) == "1 day, 16:00:00"


@pytest.mark.parametrize(("kind", "escapes"), [("xterm", True), ("dumb", False)])
def test_a_terminal_has_a_bar_and_a_dumb_one_a_line_an_epoch(
    kind: str, escapes: bool, teacher_file: Path, tmp_path: Path
) -> None:
    file = io.StringIO()
    environment = {"TERM": kind, "NO_COLOR": "1"}
    console = Console(file=file, force_terminal=True, width=60, _environ=environment)
    settings = ("temperature=random", "trainer.epochs=2", "trainer.log_every_steps=1")
    distill(tiny(teacher_file, tmp_path / "run", *settings), console=console)
    told = file.getvalue()
    assert ("\x1b[" in told) == escapes
    assert ("ETA" in told) == escapes
    assert ("\nepoch 2/2  loss " in told) == (not escapes)
    assert re.search(r"T \d+\.\d\d ± \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)", told.replace("\n", " "))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", told)  # NO_COLOR: https://no-color.org
