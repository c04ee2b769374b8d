"""When checkpoints are taken, and how signals stop a run: in this process, at chosen steps."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch
from tests.engine.test_resume import archive_checkpoints
from tests.support.runs import SOURCES, silent, tiny_config
from torch import Tensor

from rlkd import distributed
from rlkd.engine import run as running
from rlkd.engine import signals as stopping
from rlkd.engine.callbacks import checkpoint as checkpoints
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.signals import STOPPING, Interrupted, StopSignals
from rlkd.errors import UserError
from rlkd.losses import LossInputs, Objective

pytestmark = pytest.mark.usefixtures("plainly")

During = Callable[[int], None]
"""Is called in each pass with its number, from 1."""


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[During], None]:
    """Do something in the midst of passes."""

    def during(do: During) -> None:
        passes, forward = 0, Objective.forward

        def wrapped(self: Objective, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
            nonlocal passes
            passes += 1
            do(passes)
            return forward(self, inputs)

        monkeypatch.setattr(Objective, "forward", wrapped)

    return during


def send_at(number: int, *signals: signal.Signals) -> During:
    def send(step: int) -> None:
        if step == number:
            for each in signals:
                os.kill(os.getpid(), each)

    return send


@pytest.fixture
def own() -> list[tuple[int, FrameType | None]]:
    """Signals that came to handlers of the test's own, which are there before a run."""
    return []


@pytest.fixture(autouse=True)
def handlers(own: list[tuple[int, FrameType | None]]) -> object:
    def note(number: int, frame: FrameType | None) -> None:
        own.append((number, frame))

    before = {each: signal.signal(each, note) for each in STOPPING}
    yield note
    for each, handler in before.items():
        signal.signal(each, handler)


def assert_given_back(handlers: object) -> None:
    assert [signal.getsignal(each) for each in STOPPING] == [handlers] * len(STOPPING)


@pytest.mark.parametrize(
    ("step", "by", "code", "told"),
    [
        (1, signal.SIGINT, 130, "interrupted; "),
        (3, signal.SIGTERM, 143, "interrupted by SIGTERM; "),
        (5, signal.SIGTERM, 143, "interrupted by SIGTERM; "),
        (5, signal.SIGUSR1, 138, "interrupted by SIGUSR1; "),
    ],
)
def test_a_signal_stops_the_run_at_the_end_of_its_step(
    step: int,
    by: signal.Signals,
    code: int,
    told: str,
    during: Callable[[During], None],
    handlers: object,
    teacher_file: Path,
    tmp_path: Path,
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"])
    folder = RunFolder(tmp_path / "run")
    during(send_at(step, by))
    with pytest.raises(Interrupted) as stopped:
        running.run(config, console=silent())
    assert stopped.value.exit_code == code
    assert stopped.value.signal is by
    place = folder.checkpoints.place(step)
    assert str(stopped.value) == f"{told}the same command goes on from {place}"
    assert torch.load(place, weights_only=True)["global_step"] == step
    assert_given_back(handlers)
    running.run(config, console=silent())
    assert folder.result.is_file()


def test_a_second_signal_stops_at_once(
    during: Callable[[During], None], handlers: object, teacher_file: Path, tmp_path: Path
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"])
    during(send_at(5, signal.SIGUSR1, signal.SIGTERM))
    with pytest.raises(Interrupted) as stopped:
        running.run(config, console=silent())
    assert stopped.value.exit_code == 138
    place = RunFolder(tmp_path / "run").checkpoints.place(3)
    told = f"interrupted by SIGUSR1; the same command goes on from {place}"
    assert str(stopped.value) == told
    assert_given_back(handlers)


def test_a_schedulers_notice_after_a_signal_does_not_stop_at_once(
    during: Callable[[During], None], handlers: object, teacher_file: Path, tmp_path: Path
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"])
    during(send_at(5, signal.SIGTERM, signal.SIGUSR1))
    with pytest.raises(Interrupted) as stopped:
        running.run(config, console=silent())
    assert stopped.value.exit_code == 143
    assert RunFolder(tmp_path / "run").checkpoints.place(5).is_file()
    assert_given_back(handlers)


def test_a_run_that_stops_at_once_before_its_first_checkpoint_says_so(
    during: Callable[[During], None], teacher_file: Path, tmp_path: Path
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"])
    during(send_at(2, signal.SIGINT, signal.SIGINT))
    with pytest.raises(Interrupted, match=r"no checkpoint in .*/run yet, the same command begins"):
        running.run(config, console=silent())


def test_signals_are_given_back_after_a_fault_too(
    during: Callable[[During], None], handlers: object, teacher_file: Path, tmp_path: Path
) -> None:
    def fail(step: int) -> None:
        raise UserError(f"step {step}")

    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"])
    during(fail)
    with pytest.raises(UserError, match="step 1"):
        running.run(config, console=silent())
    assert_given_back(handlers)


def test_signals_are_heard_only_while_a_run_listens(
    own: list[tuple[int, FrameType | None]], handlers: object
) -> None:
    signals = StopSignals(lambda: "nowhere")
    signals.answer()
    assert_given_back(handlers)
    with signals.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as if by Lightning
        signals.answer()
        with pytest.raises(Interrupted, match="nowhere"):
            os.kill(os.getpid(), signal.SIGTERM)
    assert not own
    os.kill(os.getpid(), signal.SIGTERM)
    assert [number for number, _ in own] == [signal.SIGTERM]


def test_what_a_launcher_passes_on_to_a_rank_is_no_second_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, signals = 100.0, StopSignals(lambda: "nowhere")
    monkeypatch.setattr(stopping, "monotonic", lambda: now)
    monkeypatch.setattr(distributed, "this_rank", lambda: distributed.Rank(1, 2))
    with signals.listening():
        os.kill(os.getpid(), signal.SIGINT)
        now += 1
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.asked is signal.SIGINT
        now += 9
        with pytest.raises(Interrupted, match=r"^interrupted; nowhere$"):
            os.kill(os.getpid(), signal.SIGTERM)


def saved_steps(
    config_of: Path, teacher: Path, patched: pytest.MonkeyPatch, *more: str
) -> list[int]:
    archive = config_of / "archive"
    archive_checkpoints(patched, archive)
    config = tiny_config(teacher, config_of / "run", *SOURCES["constant"], *more)
    running.run(config, console=silent())
    return sorted(int(each.name) for each in archive.iterdir())


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        ("2", [2, 3, 5, 6, 8, 9]),
        ("1", list(range(1, 10))),
        ("null", [3, 6, 9]),
    ],
)
def test_minutes_count_from_the_last_checkpoint(
    minutes: str,
    expected: list[int],
    during: Callable[[During], None],
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def a_minute(_: int) -> None:
        nonlocal now
        now += 60

    during(a_minute)
    monkeypatch.setattr(checkpoints, "monotonic", lambda: now)
    setting = f"trainer.checkpoint_every_minutes={minutes}"
    assert saved_steps(tmp_path, teacher_file, monkeypatch, setting) == expected


def test_every_so_many_steps_means_steps(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "trainer.checkpoint_every_steps=4"
    assert saved_steps(tmp_path, teacher_file, monkeypatch, more) == [3, 4, 6, 8, 9]


@pytest.mark.long
def test_a_step_of_two_passes_is_not_cut_in_two(
    during: Callable[[During], None], teacher_file: Path, tmp_path: Path
) -> None:
    passes = ("trainer.batch_size=8", "trainer.accumulate=2", "trainer.epochs=2")
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"], *passes)
    during(send_at(3, signal.SIGTERM))
    with pytest.raises(Interrupted):
        running.run(config, console=silent())
    held = torch.load(RunFolder(tmp_path / "run").checkpoint, weights_only=True)
    assert (held["global_step"], held["rlkd"]["batches_done"]) == (2, 4)
    running.run(config, console=silent())
    whole = tiny_config(teacher_file, tmp_path / "whole", *SOURCES["constant"], *passes)
    running.run(whole, console=silent())
    ends = [RunFolder(tmp_path / name).student.read_bytes() for name in ("run", "whole")]
    assert ends[0] == ends[1]
