"""The curves of a run: every term of its loss, and those of a run that was killed."""

from pathlib import Path

import lightning as L
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.support.runs import SOURCES, metrics_but_time, silent, tiny_config

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


@pytest.mark.parametrize(
    ("overrides", "terms"),
    [
        (("method=kd",), ["cross_entropy", "kd"]),
        (("method=reviewkd", "trainer.accumulate=2"), ["cross_entropy", "kd", "reviewkd"]),
    ],
)
def test_each_term_of_the_loss_is_a_curve_and_they_add_up_to_it(
    overrides: tuple[str, ...], terms: list[str], teacher_file: Path, tmp_path: Path
) -> None:
    config = tiny_config(teacher_file, tmp_path, "temperature=constant", *overrides)
    running.run(config, console=silent())
    columns = [f"train/loss_{name}" for name in terms]
    rows = metrics_but_time(tmp_path / "metrics.csv")
    assert len(rows) == 3
    for row in rows:
        assert [each for each in row if each.startswith("train/loss_")] == columns
        parts = [float(row[each]) for each in columns]
        assert all(part > 0 for part in parts)
        assert sum(parts) == pytest.approx(float(row["train/loss"]), rel=1e-5)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for column in columns:
        drawn = [each.value for each in events.Scalars(column)]
        assert drawn == pytest.approx([float(row[column]) for row in rows])


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
