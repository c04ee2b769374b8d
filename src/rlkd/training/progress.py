"""What a run shows while it trains: a bar on a terminal, a line an epoch elsewhere."""

import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rlkd.training.checkpoints import check_finite
from rlkd.training.module import StudentModule
from rlkd.training.run_folder import RunFolder


class Clock(L.Callback):
    """Counts images and seconds of training, over interruptions too."""

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0
        self.seconds_before = 0.0
        """Of training in earlier processes."""
        self._began = 0.0

    @property
    def images_per_second(self) -> float:
        """Return the mean rate of steps so far; loading and evaluations are left out."""
        return self.images / self.seconds if self.seconds else 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._began
        self.images += len(batch.index)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"images": self.images, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.images, self.seconds = state_dict["images"], state_dict["seconds"]
        self.seconds_before = self.seconds


class ShowProgress(L.Callback):
    """Shows loss, accuracy, images per second, mean temperature and the time left.

    Args:
        console: where to show it.
        clock: counts the images.
        folder: of the run, for the message when the loss is no longer finite.
        every_steps: steps between two readings of the device.
    """

    def __init__(
        self, console: Console, clock: Clock, folder: RunFolder, *, every_steps: int
    ) -> None:
        self.console, self.clock, self.folder = console, clock, folder
        self.every_steps = every_steps
        self._progress: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar."""
        if not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
        )
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self._task = self._progress.add_task("training", total=total, figures="")
        self._progress.update(self._task, completed=trainer.global_step)
        self._progress.start()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar; read figures when they are due."""
        if trainer.global_step % self.every_steps:
            return
        assert isinstance(pl_module, StudentModule)
        check_finite(pl_module, self.folder.checkpoint)
        if self._progress is not None:
            self._progress.update(
                self._task,
                completed=trainer.global_step,
                description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
                figures=self._figures(pl_module.meters.read()),
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch where there is no bar."""
        assert isinstance(pl_module, StudentModule)
        if self._progress is None:
            figures = self._figures(pl_module.meters.read())
            self.console.print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {figures}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        self.on_train_end(trainer, pl_module)

    def _figures(self, row: dict[str, float]) -> str:
        shown = [
            f"loss {row['train/loss']:.3f}",
            f"acc {100 * row['train/accuracy']:.1f} %",
            f"{self.clock.images_per_second:.0f} img/s",
        ]
        if "temperature/mean" in row:
            shown.append(f"T {row['temperature/mean']:.2f} ± {row['temperature/std']:.2f}")
        return "  ".join(shown)
