"""A run ends where Lightning's EarlyStopping ends one, and does not go on when it is resumed."""

import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.demos.boring_classes import BoringModel
from safetensors.torch import load_file
from tests.engine.test_resume import archive_checkpoints, put_back
from tests.support.runs import metrics_but_time, silent, tiny_config

from rlkd.engine import run as running
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import Result
from rlkd.reporting.results.scores import Scores
from rlkd.tasks.classification.task import PreparedClassification

pytestmark = pytest.mark.usefixtures("plainly")

ACCURACIES = [0.1, 0.3, 0.2, 0.3, 0.25, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
GIVEN = (
    *("temperature=constant", "data.limit=64", "trainer.validation_size=16", "trainer.epochs=12"),
    "trainer.checkpoint_every_steps=1",
)


def scored(self: PreparedClassification) -> dict[str, Scores]:
    """The accuracy of the epoch that ends."""
    accuracy = ACCURACIES[min(len(self.module.history), 11)]
    return {name: Scores(accuracy, 1.0, 2.0) for name in ("test", "validation")}


class Logging(BoringModel):
    """Logs the accuracies that are evaluated."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.evaluated = ACCURACIES[every - 1 :: every]

    def on_train_epoch_end(self) -> None:
        self.log("accuracy", self.evaluated[self.current_epoch])


def epochs_of_lightning(patience: int, every: int, place: Path) -> int:
    module, evaluations = Logging(every), len(ACCURACIES) // every
    stop = EarlyStopping("accuracy", mode="max", patience=patience, check_on_train_epoch_end=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_epochs=evaluations,
            limit_train_batches=1,
            limit_val_batches=0,
            callbacks=[stop],
            logger=False,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=place,
        )
        trainer.fit(module)
    return trainer.current_epoch * every


@pytest.mark.parametrize(("patience", "every"), [(1, 1), (2, 2), (4, 1), (9, 1)])
def test_a_run_ends_where_lightning_ends_one(
    patience: int, every: int, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreparedClassification, "scores", scored)
    given = (f"trainer.early_stopping={patience}", f"trainer.evaluate_every={every}")
    config = tiny_config(teacher_file, tmp_path / "run", *GIVEN, *given)
    console = silent()
    result = running.run(config, console=console)
    expected = epochs_of_lightning(patience, every, tmp_path)
    assert result.epochs == expected == len(metrics_but_time(tmp_path / "run" / "metrics.csv"))
    assert result.validation is not None
    assert result.validation.top1 == ACCURACIES[expected - 1]
    told = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert (f"stopped after epoch {expected}: no better" in told) is (expected < 12)
    assert RunFolder(tmp_path / "run").complete


@pytest.mark.long
def test_a_run_that_is_resumed_ends_at_the_same_epoch(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreparedClassification, "scores", scored)
    folder, archive = RunFolder(tmp_path / "run"), tmp_path / "archive"
    config = tiny_config(teacher_file, folder.path, *GIVEN, "trainer.early_stopping=2")
    with monkeypatch.context() as patched:
        archive_checkpoints(patched, archive)
        result = running.run(config, console=silent())
    expected, rows = load_file(folder.student), metrics_but_time(folder.metrics)
    assert result.epochs == 4
    for step in (12, 9, 8, 2):  # after it had stopped; at an epoch's end; within epochs
        for file in (folder.result, folder.student, folder.metrics):
            file.unlink()
        put_back(folder, archive, step)
        assert running.run(config, console=silent()).epochs == 4, step
        found = load_file(folder.student)
        assert all(torch.equal(found[name], each) for name, each in expected.items()), step
        assert metrics_but_time(folder.metrics) == rows, step
    assert Result.read(folder.result).epochs == 4
