"""A detection run that resumes from any step, or after a kill, ends as the uninterrupted one."""

import json
import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.engine.test_interruption import PRELOADED, finish, until_saved
from tests.engine.test_resume import archive_checkpoints, put_back
from tests.support.detection_runs import LEARNING, tiny_detection
from tests.support.runs import command, metrics_but_time, silent

from rlkd.cli import main
from rlkd.config.compose import configure
from rlkd.engine import run as running
from rlkd.engine.run_folder import RunFolder

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("plainly")]

MIMIC = (
    "+method.terms.mimic._target_=rlkd.losses.Term",
    "+method.terms.mimic.weight=10.0",
    "+method.terms.mimic.layers=stages",
    "+method.terms.mimic.loss._target_=rlkd.losses.FitNet",
    "+method.terms.mimic.loss._partial_=true",
)
EVERY_DRAW = (
    "method=kd",
    "temperature=rlkd",
    "probe.size=4",
    "temperature.probe_interval=1",
    "temperature.evidence=false",  # so few updates are none
    *LEARNING,
    "temperature.warmup_epochs=0",
    "exploration.epochs=2",
    "task.detector.min_size=[64,96]",
)
"""The agent acts and explores; regions and sizes are drawn, from the global generator too."""
RUNS = {
    "every draw": EVERY_DRAW,
    "maps imitated": ("temperature=constant", *MIMIC),
    "averaged, clipped and frozen in part": (
        *("temperature=constant", "trainer.ema=0.9", "trainer.gradient_clip=0.5"),
        "student.freeze=[backbone.*]",
    ),
}
"""Two epochs, of three batches where a probe is held out, and else of four."""
OTHERS = {
    "minus the loss as performance": (*EVERY_DRAW, "task.performance=loss"),
    "no size drawn": tuple(each for each in EVERY_DRAW if not each.startswith("task.")),
    "not imitated": ("temperature=constant",),
}
FEW = (
    "data.train=16",
    "data.test=3",
    "trainer.evaluate_every=2",
    "trainer.checkpoint_every_steps=1",
)


def everything(folder: RunFolder) -> dict[str, object]:
    """What must be the same; the weights apart."""
    found: dict[str, object] = {"metrics": metrics_but_time(folder.metrics)}
    for name in ("detections.json", "policy.json"):
        path = folder.path / name
        found[name] = json.loads(path.read_text()) if path.exists() else None
    return found


def assert_same_weights(found: Path, expected: Path, said: str) -> None:
    one, other = load_file(found), load_file(expected)
    assert one.keys() == other.keys()
    for key, tensor in other.items():
        assert torch.equal(one[key], tensor), f"{said}: {key}"


@pytest.mark.parametrize("name", RUNS)
def test_resuming_after_any_step_ends_in_the_same_weights_and_scores(
    name: str, detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    config = configure(tiny_detection(detector_file, folder.path, *FEW, *RUNS[name]))
    archive = tmp_path / "archive"
    with monkeypatch.context() as patched:
        archive_checkpoints(patched, archive)
        result = running.run(config, console=silent())
    expected, weights = everything(folder), tmp_path / "weights"
    shutil.copy(folder.student, weights)
    steps = sorted(int(each.name) for each in archive.iterdir())
    assert steps == list(range(1, 1 + len(steps)))
    assert len(steps) == 2 * (3 if "probe.size=4" in RUNS[name] else 4)
    monkeypatch.setattr(running, "write_report", lambda *_, **__: None)
    for step in steps:
        for path in folder.path.glob("*.*"):
            if path != folder.config:
                path.unlink()
        put_back(folder, archive, step)
        torch.manual_seed(step)
        resumed = running.run(config, console=silent())
        assert_same_weights(folder.student, weights, f"resumed after step {step}")
        assert everything(folder) == expected, f"resumed after step {step}"
        assert (resumed.test, resumed.teacher) == (result.test, result.teacher)


def test_these_runs_draw_learn_explore_and_imitate(
    detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "write_report", lambda *_, **__: None)
    ends: dict[str, bytes] = {}
    for name, given in (RUNS | OTHERS).items():
        folder = RunFolder(tmp_path / name)
        settings = tiny_detection(detector_file, folder.path, *FEW, *given)
        running.run(configure(settings), console=silent())
        ends[name] = folder.student.read_bytes()
        if "temperature=rlkd" in given:
            for row in metrics_but_time(folder.metrics):
                assert row["agent/updater_loss"]
                assert float(row["temperature/std"]) > 0
    assert len(set(ends.values())) == len(ends)


def test_a_run_killed_within_an_epoch_ends_in_the_weights_of_one_that_was_not(
    detector_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def settings(folder: RunFolder) -> list[str]:
        # Long enough that the kill falls within an epoch.
        return tiny_detection(detector_file, folder.path, *FEW, *EVERY_DRAW, "data.train=36")

    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    context = multiprocessing.get_context("forkserver")  # one for all tests, with the same imports
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=command, args=(["distill", *settings(killed)], tmp_path))
    process.start()
    until_saved(process, killed, 10)
    process.kill()
    assert finish(process) == -signal.SIGKILL
    assert not killed.result.exists()
    resumed = killed.checkpoint
    assert resumed is not None
    assert 0 < torch.load(resumed, weights_only=True)["rlkd"]["batches_done"] < 8
    assert main(["distill", *settings(killed)]) == 0
    assert f"resuming from {resumed}" in capsys.readouterr().out
    running.run(configure(settings(whole)), console=silent())
    assert_same_weights(killed.student, whole.student, "killed")
    assert everything(killed) == everything(whole)
