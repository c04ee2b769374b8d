"""Checkpoints: whole or absent, finite, and the last good one survives."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.marks import but_long
from tests.support.runs import SOURCES, metrics_but_time, silent, tiny, tiny_config
from torch import Tensor

from rlkd.cli import main
from rlkd.engine import run as running
from rlkd.engine.forward import Forwarded
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import DivergenceError, Notice, UserError
from rlkd.losses import LossInputs, Objective
from rlkd.reporting import read_metrics
from rlkd.tasks.classification.forward import ClassifierForward
from rlkd.types import Batch

pytestmark = pytest.mark.usefixtures("plainly")


def failing_at(call: int, function: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Return the function, but its calls from one on (counted from 1) fail."""
    calls = 0

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise error
        return function(*arguments, **options)

    return wrapped


FULL = OSError(errno.ENOSPC, "No space left on device")
FAULTS = {
    "torch.save": (torch, "save", FULL, 1),
    "torch's zip writer": (torch, "save", RuntimeError("unexpected pos 64 vs 0"), 1),
    "fsync": (os, "fsync", FULL, 12),
    "replace": (os, "replace", FULL, 6),
}
"""What fails, how, and how many calls what a run leaves first and the first checkpoint make."""


@pytest.mark.parametrize("fault", but_long(FAULTS, "fsync"))
def test_a_full_disk_leaves_the_first_checkpoint_to_resume_from(
    fault: str, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        teacher_file, tmp_path / "run", *SOURCES["rlkd"], "trainer.checkpoint_every_steps=1"
    )
    folder = RunFolder(tmp_path / "run")
    module, name, error, first = FAULTS[fault]
    with monkeypatch.context() as patched:
        patched.setattr(module, name, failing_at(first + 1, getattr(module, name), error))
        with pytest.raises(UserError, match=r"cannot save the checkpoint .*: free some space"):
            running.run(config, console=silent())
    names = {each.name for each in folder.checkpoints.folder.iterdir()}
    assert names == {"SHA256SUMS", "step-1.ckpt"}
    assert torch.load(folder.checkpoint, weights_only=True)["global_step"] == 1
    running.run(config, console=silent())
    student = folder.student.read_bytes()
    rows = metrics_but_time(folder.metrics)
    again = tiny_config(teacher_file, tmp_path / "again", *SOURCES["rlkd"])
    running.run(again, console=silent())
    assert RunFolder(tmp_path / "again").student.read_bytes() == student
    assert metrics_but_time(RunFolder(tmp_path / "again").metrics) == rows


def turn_at(step: int, value: float, patched: pytest.MonkeyPatch) -> None:
    """Multiply the loss of a step, counted from 1, and of all later ones."""
    steps, forward = 0, Objective.forward

    def turned(self: Objective, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal steps
        steps += 1
        total, parts = forward(self, inputs)
        return (total * value if steps >= step else total), parts

    patched.setattr(Objective, "forward", turned)


def tensors_of(held: Any) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    if isinstance(held, dict):
        held = list(held.values())
    if isinstance(held, list | tuple):
        return [tensor for each in held for tensor in tensors_of(each)]
    return []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", but_long([1, 2, 3, 5, 9], 1, 3))
@pytest.mark.parametrize("every", [1, 100])
def test_a_loss_that_is_not_finite_is_told_by_its_step(
    step: int,
    every: int,
    value: float,
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turn_at(step, value, monkeypatch)
    saving = f"trainer.checkpoint_every_steps={every}"
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"], saving)
    with pytest.raises(DivergenceError) as told:
        running.run(config, console=silent())
    checkpoint = RunFolder(tmp_path / "run").checkpoint
    assert str(told.value).startswith(
        f"the loss is not finite since step {step}: try a lower optimizer.lr, a warm-up, or "
        "trainer.precision=32-true; "
    )
    last_good = step - 1 if every == 1 else (step - 1) // 3 * 3
    if last_good == 0:
        assert str(told.value).endswith("none was saved")
        assert checkpoint is None
        return
    assert str(told.value).endswith(f"the last good checkpoint is {checkpoint}")
    held = torch.load(checkpoint, weights_only=True)
    assert held["global_step"] == last_good
    assert all(bool(tensor.isfinite().all()) for tensor in tensors_of(held))


def spoil_teacher(step: int, patched: pytest.MonkeyPatch) -> None:
    """Make one row of the teacher's logits NaN in a step, counted from 1."""
    steps, call = 0, ClassifierForward.__call__

    def spoilt(self: ClassifierForward, batch: Batch) -> Forwarded:
        nonlocal steps
        steps += 1
        forwarded = call(self, batch)
        if steps == step:
            assert forwarded.inputs.teacher_logits is not None
            forwarded.inputs.teacher_logits[0, 0] = torch.nan
        return forwarded

    patched.setattr(ClassifierForward, "__call__", spoilt)


def test_a_loss_made_infinite_by_the_teacher_is_not_answered_with_the_learning_rate(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"])
    spoil_teacher(3, monkeypatch)  # the first is of the trial before training
    with pytest.raises(DivergenceError, match=r"not finite.*1 rows of the teacher's logits: check"):
        running.run(config, console=silent())


def test_rows_that_are_not_finite_are_reported_at_the_epochs_end(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Objective.forward

    def finite(self: Objective, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        assert inputs.teacher_logits is not None
        return forward(self, replace(inputs, teacher_logits=inputs.teacher_logits.nan_to_num()))

    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"])
    spoil_teacher(3, monkeypatch)
    monkeypatch.setattr(Objective, "forward", finite)
    with pytest.warns(Notice, match=r"epoch 1: 1 rows of the teacher's logits were not finite"):
        running.run(config, console=silent())
    rows = read_metrics(RunFolder(tmp_path / "run").metrics)
    assert [row.get("train/bad_rows_teacher") for row in rows] == [1, *[None] * (len(rows) - 1)]


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_still_is(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.SGD.step

    def overshooting(self: torch.optim.SGD, **given: Any) -> Any:
        stepped = step(self, **given)
        self.param_groups[0]["params"][0].data[0] = torch.inf
        return stepped

    config = tiny_config(
        teacher_file,
        tmp_path / "run",
        *SOURCES["constant"],
        "trainer.checkpoint_every_steps=1",
    )
    monkeypatch.setattr(torch.optim.SGD, "step", overshooting)
    with pytest.raises(DivergenceError, match=r"weights are not finite after step 1: .*none was"):
        running.run(config, console=silent())
    assert RunFolder(tmp_path / "run").checkpoint is None


def test_divergence_ends_with_2_and_one_line(
    teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", *SOURCES["constant"], "optimizer.lr=1e6")
    assert main(["distill", *settings, "trainer.epochs=9"]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "not finite since step" in told or "not finite after step" in told
    assert not (tmp_path / "run" / "result.json").exists()
