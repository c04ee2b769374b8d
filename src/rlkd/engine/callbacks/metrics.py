"""Figures of each epoch, into metrics.csv, TensorBoard and trackers."""

import os
from collections.abc import Callable

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger

from rlkd.engine.callbacks.checkpoint import check_finite
from rlkd.engine.callbacks.progress import Clock
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.trackers import Tracker
from rlkd.reporting import AnyScores, write_metrics


class EventsLogger(TensorBoardLogger):
    """TensorBoard's events in the folder of a run, whose path is taken as it stands.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder.path, name="", version=folder.events.name)

    @property
    def log_dir(self) -> str:
        """The folder of the events; Lightning's would replace `$NAME` and `~` in its path."""
        return os.path.join(self.root_dir, str(self.version))


class LogEpochs(L.Callback):
    """Completes each epoch's row with held-out scores and writes it.

    The scores draw curves; they select nothing.

    Args:
        folder: of the run.
        clock: counts the images.
        scores: scores the student on each held-out set, by its name.
        every_epochs: epochs between two scorings; the last epoch is always scored.
    """

    def __init__(
        self,
        folder: RunFolder,
        clock: Clock,
        scores: Callable[[], dict[str, AnyScores]],
        *,
        every_epochs: int,
    ) -> None:
        self.folder, self.clock, self.scores = folder, clock, scores
        self.every_epochs = every_epochs
        self.latest: dict[str, AnyScores] = {}
        """The scores of the epoch that ended last; empty where it was not scored."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the student when due; the module has not written its row yet."""
        assert isinstance(pl_module, StudentModule)
        check_finite(pl_module, self.folder)
        epoch = trainer.current_epoch + 1
        pl_module.epoch_figures["images_per_second"] = self.clock.images_per_second
        last = epoch == trainer.max_epochs or trainer.global_step == trainer.max_steps
        self.latest = self.scores() if epoch % self.every_epochs == 0 or last else {}
        for name, scores in self.latest.items():
            for column, figure in scores.figures().items():
                pl_module.epoch_figures[f"{name}/{column}"] = figure


class WriteMetrics(Checkpoint):
    """Writes the history at each epoch's end.

    Lightning calls what is a `Checkpoint` after the module, which adds its row at the epoch's end.
    Listed before what saves checkpoints, this has written all that a checkpoint holds, so that a
    run resumed at an epoch's end, the last one's too, lacks no point.

    Args:
        folder: of the run.
        tracker: gets it too.
    """

    def __init__(self, folder: RunFolder, tracker: Tracker) -> None:
        self.folder, self.tracker = folder, tracker

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epochs that have ended."""
        assert isinstance(pl_module, StudentModule)
        if not trainer.is_global_zero:
            return
        write_metrics(self.folder.metrics, pl_module.history)
        self.tracker.follow(pl_module.history)
        newest = dict(pl_module.history[-1])
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics(newest, step=int(newest["epoch"]))
                logger.experiment.flush()
