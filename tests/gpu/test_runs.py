"""Whole runs on a GPU: mixed precision, compiling, and going on elsewhere."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.engine.test_resume import archive_checkpoints, put_back
from tests.gpu.places import CUDA, require_cuda
from tests.support.runs import SOURCES, assert_same_figures, silent, tiny

from rlkd.engine import run as running
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import Result, read_metrics

pytestmark = pytest.mark.usefixtures("plainly")
ON_CPU = pytest.param("cpu", marks=pytest.mark.long)  # which shows that the bodies run
STEP = 4
"""Of 9: the first of the second epoch, in which the agents act."""


def train(where: str, teacher: Path, folder: RunFolder, *settings: str) -> Result:
    """Run as on a machine that has a GPU, or has none."""
    if where == "cuda":
        require_cuda()
    with pytest.MonkeyPatch.context() as patched:
        if where == "cpu":
            patched.setattr(torch.cuda, "is_available", lambda: False)
        overrides = tiny(teacher, folder.path, *settings, "trainer.accelerator=auto")
        return running.distill(overrides, console=silent())


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.student)


@pytest.mark.parametrize(
    ("where", "precision"),
    [
        pytest.param("cpu", "bf16-mixed", marks=pytest.mark.long),
        pytest.param("cuda", "bf16-mixed", marks=pytest.mark.gpu),
        pytest.param("cuda", "16-mixed", marks=pytest.mark.gpu),
        pytest.param("cuda", "32-true", marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize("name", SOURCES)
def test_a_run_ends_with_figures(
    name: str, where: str, precision: str, teacher_file: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    settings = (*SOURCES[name], f"trainer.precision={precision}", "trainer.channels_last=true")
    result = train(where, teacher_file, folder, *settings)
    assert result.epochs == 3
    assert result.images_per_second > 0
    rows = read_metrics(folder.metrics)
    assert all(0 < row["train/loss"] < float("inf") for row in rows)
    assert all(bool(each.isfinite().all()) for each in weights(folder).values())


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("name", ["constant", "rlkd"])
def test_a_compiled_run_is_the_plain_one_to_rounding(
    name: str, mode: str, teacher_file: Path, tmp_path: Path
) -> None:
    plain, fast = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "fast")
    settings = (*SOURCES[name], "trainer.epochs=1")
    train("cuda", teacher_file, plain, *settings)
    train("cuda", teacher_file, fast, *settings, f"trainer.compile={mode}")
    expected, found = weights(plain), weights(fast)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-2, atol=1e-3)
    assert_same_figures(fast, plain)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("cpu", "cpu", marks=pytest.mark.long),
        *(
            pytest.param(first, second, marks=pytest.mark.gpu)
            for first, second in (("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda"))
        ),
    ],
)
@pytest.mark.parametrize("name", SOURCES)
def test_a_run_goes_on_on_another_device(
    name: str,
    first: str,
    second: str,
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, archive = RunFolder(tmp_path / "run"), tmp_path / "archive"
    settings = (*SOURCES[name], "trainer.checkpoint_every_steps=1")
    with monkeypatch.context() as patched:
        archive_checkpoints(patched, archive)
        train(first, teacher_file, folder, *settings)
    expected, rows = weights(folder), read_metrics(folder.metrics)
    for file in (folder.result, folder.student, folder.metrics, folder.policy):
        file.unlink(missing_ok=True)
    put_back(folder, archive, STEP)
    train(second, teacher_file, folder, *settings)
    again = read_metrics(folder.metrics)
    assert again[0]["train/loss"] == rows[0]["train/loss"]  # of the epoch before the checkpoint
    assert len(again) == len(rows) == 3
    found = weights(folder)
    assert all(bool(each.isfinite().all()) for each in found.values())
    if name == "constant" or first == second:  # noise of an agent is the device's own
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("where", [ON_CPU, CUDA])
def test_two_runs_on_one_device_are_alike(where: str, teacher_file: Path, tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / each) for each in ("one", "other")]
    for folder in folders:
        train(where, teacher_file, folder, *SOURCES["rlkd"])
    one, other = map(weights, folders)
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4)
