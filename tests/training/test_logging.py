"""The curves of a run that was killed."""

from pathlib import Path

import lightning as L
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.training.runs import SOURCES, silent, tiny_config

from rlkd.engine import run as running
from rlkd.engine.callbacks.checkpoint import KeepLast

pytestmark = pytest.mark.usefixtures("plainly")


class KilledError(Exception):
    """Stands in for a kill."""


def points(folder: Path) -> list[int]:
    """Return the epochs that TensorBoard's files have a loss of."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    known = "train/loss" in events.Tags()["scalars"]
    return [each.step for each in events.Scalars("train/loss")] if known else []


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_killed_after_an_epochs_checkpoint_lacks_no_point(
    epoch: int, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *SOURCES["constant"], "trainer.epochs=2")
    save = KeepLast.on_train_epoch_end

    def save_and_die(self: KeepLast, trainer: L.Trainer, module: L.LightningModule) -> None:
        save(self, trainer, module)
        if trainer.current_epoch + 1 == epoch:
            assert points(tmp_path / "run") == list(range(1, epoch + 1))
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(KeepLast, "on_train_epoch_end", save_and_die)
        with pytest.raises(KilledError):
            running.run(config, console=silent())
    running.run(config, console=silent())
    assert points(tmp_path / "run") == [1, 2]
