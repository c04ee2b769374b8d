"""A run that resumes from any of its checkpoints ends as the uninterrupted one, bit for bit."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.runs import SOURCES, metrics_but_time, silent, tiny_config

from rlkd.engine import run as running
from rlkd.engine.checkpoint_store import CheckpointStore
from rlkd.engine.run_folder import RunFolder


def archive_checkpoints(patched: pytest.MonkeyPatch, archive: Path) -> None:
    """Keep a copy of every checkpoint, by its step."""
    archive.mkdir()
    save = CheckpointStore.save

    def save_twice(self: CheckpointStore, checkpoint: Any, step: int, *, keep: int) -> None:
        save(self, checkpoint, step, keep=keep)
        shutil.copy(self.place(step), archive / f"{step}")

    patched.setattr(CheckpointStore, "save", save_twice)


def put_back(folder: RunFolder, archive: Path, step: int) -> None:
    """Make one checkpoint of an archive the only one of a run."""
    store = folder.checkpoints
    shutil.rmtree(store.folder)
    store.folder.mkdir()
    shutil.copy(archive / f"{step}", store.place(step))
    sha256 = hashlib.sha256(store.place(step).read_bytes()).hexdigest()
    (store.folder / "SHA256SUMS").write_text(f"{sha256}  step-{step}.ckpt\n")


pytestmark = [pytest.mark.long, pytest.mark.usefixtures("plainly")]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.student)


RUNS: dict[str, tuple[str, ...]] = {
    **SOURCES,
    "dropout": (
        "temperature=constant",
        "student=tests.support.runs:DroppingStudent",
        "trust=tests",
        "trainer.epochs=2",
    ),
    "all that holds a student back": (
        *("temperature=constant", "trainer.gradient_clip=0.5", "trainer.ema=0.9"),
        *("task.label_smoothing=0.1", "task.class_weights=balanced", "task.mix=cutmix"),
        *("student.freeze=[layers.0.*]", "trainer.epochs=2"),
    ),
    "mixed, looking ahead": (
        *SOURCES["rlkd, seeing more"],
        *("exploration.enabled=false", "task.mix=mixup", "trainer.epochs=2"),
    ),
    "mixed, two views": (
        "temperature=constant",
        "method=mlkd",
        "task.mix=mixup",
        "trainer.epochs=2",
    ),
    "adamw and cosine": (
        "temperature=constant",
        "optimizer=adamw",
        "scheduler=cosine",
        "trainer.epochs=2",
    ),
}


@pytest.mark.filterwarnings("ignore:task.class_weights is of the labels")
@pytest.mark.parametrize("name", RUNS)
def test_resuming_after_any_step_ends_in_the_same_weights_and_figures(
    name: str, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    config = tiny_config(teacher_file, folder.path, "trainer.checkpoint_every_steps=1", *RUNS[name])
    archive = tmp_path / "archive"
    with monkeypatch.context() as patched:
        archive_checkpoints(patched, archive)
        result = running.run(config, console=silent())
    expected, expected_rows = weights(folder), metrics_but_time(folder.metrics)
    policy = folder.policy.read_text() if folder.policy.exists() else None
    steps = sorted(int(each.name) for each in archive.iterdir())
    assert steps == list(range(1, 3 * config.trainer.epochs + 1))
    monkeypatch.setattr(running, "write_report", lambda *_, **__: None)
    for step in steps:
        for file in (folder.result, folder.student, folder.metrics, folder.policy):
            file.unlink(missing_ok=True)
        put_back(folder, archive, step)
        resumed = running.run(config, console=silent())
        found = weights(folder)
        for key, tensor in expected.items():
            assert torch.equal(found[key], tensor), f"resumed after step {step}: {key}"
        assert metrics_but_time(folder.metrics) == expected_rows, f"resumed after step {step}"
        assert resumed.test == result.test, f"resumed after step {step}"
        if policy is not None:
            assert folder.policy.read_text() == policy, f"resumed after step {step}"


def test_these_runs_learn_and_explore(teacher_file: Path, tmp_path: Path) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["rlkd"])
    running.run(config, console=silent())
    rows = metrics_but_time(tmp_path / "run" / "metrics.csv")
    assert [row["temperature/std"] == "0" for row in rows] == [True, False, False]
    assert rows[1]["agent/updater_loss"]
    assert rows[2]["agent/corrector_loss"]
    assert len({row["learning_rate"] for row in rows}) > 1


def test_another_seed_ends_in_other_weights(teacher_file: Path, tmp_path: Path) -> None:
    ends: list[dict[str, torch.Tensor]] = []
    for seed in (0, 1):
        config = tiny_config(
            teacher_file, tmp_path / f"{seed}", f"seed={seed}", *SOURCES["constant"]
        )
        running.run(config, console=silent())
        ends.append(weights(RunFolder(tmp_path / f"{seed}")))
    assert not torch.equal(ends[0]["fc.weight"], ends[1]["fc.weight"])


def test_what_a_kill_during_a_write_leaves_behind_does_no_harm(
    teacher_file: Path, tmp_path: Path
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"])
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / ".config.yaml.rlkd-0123456789abcdef.tmp").write_text("half a configuration")
    running.run(config, console=silent())
    folder.result.unlink()
    folder.report.unlink()
    (folder.path / ".report.html.rlkd-0123456789abcdef.tmp").write_text("half a page")
    for name in (".step-12.ckpt.tmp", ".SHA256SUMS.rlkd-0123456789abcdef.tmp"):
        (folder.checkpoints.folder / name).write_bytes(b"half a file")
    running.run(config, console=silent())
    assert folder.report.is_file()
    assert not [*folder.checkpoints.folder.glob(".*"), *folder.path.glob(".*.rlkd-*")]


def test_a_checkpoint_holds_no_teacher_and_no_code(teacher_file: Path, tmp_path: Path) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["rlkd"])
    running.run(config, console=silent())
    path = RunFolder(tmp_path / "run").checkpoint
    held = torch.load(path, weights_only=True)
    assert not [name for name in held["state_dict"] if "teacher" in name]
    largest = max(tensor.numel() for tensor in torch.load(teacher_file)["model"].values())
    assert not [each for each in tensors(held) if each.numel() == largest]


def tensors(held: object) -> Iterator[torch.Tensor]:
    if isinstance(held, torch.Tensor):
        yield held
    elif isinstance(held, dict | list | tuple):
        for each in held.values() if isinstance(held, dict) else held:
            yield from tensors(each)
