"""Processes that are killed, interrupted or out of space, and what the same command makes of it."""

import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tests.support.runs import SOURCES, command, metrics_but_time, tiny

from rlkd.engine.run_folder import RunFolder

pytestmark = pytest.mark.long

PATIENCE = 60.0
"""Seconds until a process counts as stuck."""
PRELOADED = ["rlkd.cli", "rlkd.commands.verbs", "sklearn.datasets", "torch.utils.tensorboard"]

Start = Callable[[list[str]], BaseProcess]
Whole = Callable[[str], RunFolder]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What processes print, in the files stdout and stderr."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def start(outputs: Path) -> Start:
    """Start the command line; processes fork from a server that has imported everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def start(arguments: list[str]) -> BaseProcess:
        process = context.Process(target=command, args=(arguments, outputs))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def whole(
    teacher_file: Path, tmp_path_factory: pytest.TempPathFactory, start: Start
) -> Callable[[str], RunFolder]:
    """Return the run of a source that nothing interrupted."""

    @cache
    def whole(name: str) -> RunFolder:
        folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
        assert finish(start(distill(teacher_file, folder, name))) == 0
        return folder

    return whole


def until_saved(process: BaseProcess, folder: RunFolder, times: int) -> None:
    """Wait until a process has saved so many checkpoints more."""
    saved, deadline, before = 0, time.monotonic() + PATIENCE, folder.checkpoint
    while saved < times:
        assert time.monotonic() < deadline
        assert process.is_alive(), "the run ended before it was to be interrupted"
        now = folder.checkpoint
        saved, before = saved + (now != before), now
        time.sleep(0.0005)


def finish(process: BaseProcess) -> int | None:
    process.join(PATIENCE)
    return process.exitcode


def distill(teacher: Path, folder: RunFolder, name: str) -> list[str]:
    settings = tiny(
        teacher,
        folder.path,
        *SOURCES[name],
        "trainer.epochs=6",
        "trainer.evaluate_every=3",
        "trainer.checkpoint_every_steps=2",
    )
    return ["distill", *settings]


def assert_same_end(found: RunFolder, expected: RunFolder) -> None:
    assert found.student.read_bytes() == expected.student.read_bytes()
    assert metrics_but_time(found.metrics) == metrics_but_time(expected.metrics)


@pytest.mark.parametrize("name", ["constant", "rlkd", "rlkd_paper"])
def test_a_run_killed_twice_ends_in_the_weights_of_one_that_was_not(
    name: str, teacher_file: Path, tmp_path: Path, start: Start, whole: Whole
) -> None:
    moments, folder = random.Random(name), RunFolder(tmp_path / "run")
    for _ in range(2):
        process = start(distill(teacher_file, folder, name))
        until_saved(process, folder, moments.randint(1, 3))
        time.sleep(0.02 * moments.random())
        process.kill()
        assert finish(process) == -signal.SIGKILL
    assert not folder.result.exists()
    assert finish(start(distill(teacher_file, folder, name))) == 0
    assert_same_end(folder, whole(name))


SENT = {
    "Ctrl-C": ([signal.SIGINT], 130, "interrupted"),
    "Ctrl-C twice": ([signal.SIGINT, signal.SIGINT], 130, "interrupted"),
    "SIGTERM": ([signal.SIGTERM], 143, "interrupted by SIGTERM"),
    "SIGUSR1": ([signal.SIGUSR1], 138, "interrupted by SIGUSR1"),
    "SIGUSR1, then SIGTERM": ([signal.SIGUSR1, signal.SIGTERM], 138, "interrupted by SIGUSR1"),
}
"""What is sent, the exit code, and what is told."""


@pytest.mark.parametrize("name", SENT)
def test_a_signal_to_stop_makes_the_run_say_where_it_goes_on_and_it_does(
    name: str, teacher_file: Path, tmp_path: Path, outputs: Path, start: Start, whole: Whole
) -> None:
    signals, code, word = SENT[name]
    folder = RunFolder(tmp_path / "run")
    process = start(distill(teacher_file, folder, "rlkd"))
    until_saved(process, folder, 2)
    for each in signals:
        send(process, each)
    assert finish(process) == code
    told = (outputs / "stderr").read_text().splitlines()
    assert told == [f"rlkd: {word}; the same command goes on from {folder.checkpoint}"]
    assert not folder.result.exists()
    assert finish(start(distill(teacher_file, folder, "rlkd"))) == 0
    assert f"resuming from {folder.checkpoints.folder}/step-" in (outputs / "stdout").read_text()
    assert_same_end(folder, whole("rlkd"))


def test_a_process_that_may_write_no_more_keeps_its_last_checkpoint(
    teacher_file: Path, tmp_path: Path, outputs: Path, start: Start, whole: Whole
) -> None:
    folder = RunFolder(tmp_path / "run")
    process = start(distill(teacher_file, folder, "rlkd"))
    until_saved(process, folder, 2)
    assert process.pid is not None
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    assert finish(process) == 2
    told = (outputs / "stderr").read_text().splitlines()
    assert len(told) == 1
    assert f"cannot save the checkpoint {folder.checkpoints.folder}" in told[0]
    assert "free some space" in told[0]
    assert folder.checkpoint is not None
    assert not list(folder.checkpoints.folder.glob(".*"))
    assert finish(start(distill(teacher_file, folder, "rlkd"))) == 0
    assert_same_end(folder, whole("rlkd"))


def send(process: BaseProcess, sent: signal.Signals) -> None:
    assert process.pid is not None
    os.kill(process.pid, sent)
