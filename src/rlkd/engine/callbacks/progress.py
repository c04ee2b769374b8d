"""What a run shows while it trains: a bar on a terminal, a line an epoch elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, cast

import lightning as L
import torch
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rlkd import distributed
from rlkd.engine.callbacks.checkpoint import check_finite
from rlkd.engine.module import EpochLoader, StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting.escaping import say
from rlkd.reporting.results.scores import AnyScores, percent

_ADVISED_SHARE = 0.2
_SPEED_OVER = 600.0
"""Seconds whose mean speed the time left follows from: evaluations are in it too."""
_TERM = "train/loss_"


class Clock(L.Callback):
    """Counts images and seconds of training, and of waiting for data, over interruptions too.

    Evaluations and checkpoints count nowhere. A GPU works on while the next steps are launched, so
    whoever is about to read from it calls `settle` first, and the wait counts as training.

    Args:
        device: where the steps are computed.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.images, self.seconds = 0, 0.0
        """Of all ranks together; of steps."""
        self.data_seconds = 0.0
        """That the loader took between steps."""
        self.seconds_before = 0.0
        """Of training in earlier processes."""
        self._epoch_seconds = self._epoch_data_seconds = 0.0
        self._began = 0.0

    @property
    def images_per_second(self) -> float:
        """Return the mean rate of steps so far; loading and evaluations are left out."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_share(self) -> float:
        """Return which part of the time went into waiting for data, in [0, 1]."""
        return _share(self.data_seconds, self.seconds)

    @property
    def epoch_data_share(self) -> float:
        """Return the same of the epoch so far."""
        return _share(self._epoch_data_seconds, self._epoch_seconds)

    @property
    def loading_binds(self) -> bool:
        """Whether it is waiting for data that makes the epoch long."""
        return self.epoch_data_share > _ADVISED_SHARE and self._epoch_data_seconds >= 1.0

    def timed(self, batches: EpochLoader) -> "TimedBatches":
        """Return the same batches, the wait for each of which is counted."""
        return TimedBatches(batches, self)

    def settle(self) -> None:
        """Wait until all launched steps are done, and count the wait; nothing on a CPU."""
        if self.device.type == "cuda":
            began = time.perf_counter()
            torch.cuda.synchronize(self.device)
            self._trained(time.perf_counter() - began)

    def waited(self, seconds: float) -> None:
        """Count a wait for data."""
        self.data_seconds += seconds
        self._epoch_data_seconds += seconds

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count an epoch; one that a checkpoint stopped in is gone on with."""
        self._epoch_seconds = self._epoch_data_seconds = 0.0

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
        self._trained(time.perf_counter() - self._began)
        self.images += len(batch.index) * distributed.this_rank().world_size

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Settle, and add to the epoch's row; the module has not written it yet."""
        assert isinstance(pl_module, StudentModule)
        self.settle()
        pl_module.epoch_figures["time/data_share"] = self.epoch_data_share

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "images": self.images,
            "seconds": self.seconds,
            "data_seconds": self.data_seconds,
            "epoch": [self._epoch_seconds, self._epoch_data_seconds],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.images, self.seconds = state_dict["images"], state_dict["seconds"]
        self.data_seconds = state_dict["data_seconds"]
        self._epoch_seconds, self._epoch_data_seconds = state_dict["epoch"]
        self.seconds_before = self.seconds + self.data_seconds

    def _trained(self, seconds: float) -> None:
        self.seconds += seconds
        self._epoch_seconds += seconds


class TimedBatches:
    """Batches of a loader, the wait for each of which a clock counts.

    Args:
        batches: the loader.
        clock: counts.
    """

    def __init__(self, batches: EpochLoader, clock: Clock) -> None:
        self._batches, self._clock = batches, clock

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        began = time.perf_counter()
        given = iter(cast(Iterable[Any], self._batches))
        while True:
            try:
                batch = next(given)
            except StopIteration:
                return
            self._clock.waited(time.perf_counter() - began)
            yield batch
            began = time.perf_counter()


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest else 0.0


Watch = Callable[[float, float], None]
"""Hears which share of a run's steps is done, and its images per second so far."""


class ReportProgress(L.Callback):
    """Reports after every batch how far a run is, to whoever shows several runs at once.

    Args:
        watch: hears of it.
        clock: counts the images.
    """

    def __init__(self, watch: Watch, clock: Clock) -> None:
        self.watch, self.clock = watch, clock

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report."""
        batches = int(trainer.num_training_batches)
        done = trainer.current_epoch + (batch_idx + 1) / batches
        self.watch(done / (trainer.max_epochs or 1), self.clock.images_per_second)


class _Bar(Progress):
    """A bar, and figures in lines of their own below it, however narrow the terminal is."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is shown."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.figures)


class ShowProgress(L.Callback):
    """Shows the loss and its terms, accuracy, speed, temperatures and the time left, on rank 0.

    Where waiting for data takes more than a fifth of the time, it says so after the first such
    epoch, and how to fix it.

    Args:
        console: where to show it.
        clock: counts the images.
        folder: of the run, for the message when the loss is no longer finite.
        every_steps: steps between two readings of the device.
        scored: returns the scores of the epoch that ends, by held-out set; none where it has none.
    """

    def __init__(
        self,
        console: Console,
        clock: Clock,
        folder: RunFolder,
        *,
        every_steps: int,
        scored: Callable[[], Mapping[str, AnyScores]] = dict,
    ) -> None:
        self.console, self.clock, self.folder = console, clock, folder
        self.every_steps, self.scored = every_steps, scored
        self._bar: _Bar | None = None
        self._advised = False
        self._began, self._first, self._total = 0.0, 0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start to count the time left, and open the bar where a terminal can show one."""
        assert isinstance(pl_module, StudentModule)
        steps = int(trainer.num_training_batches) // pl_module.accumulate
        self._total = steps * (trainer.max_epochs or 1)
        if trainer.max_steps > 0:
            self._total = min(self._total, trainer.max_steps)
        self._began, self._first = time.perf_counter(), trainer.global_step
        # One that moves the cursor: with TERM=dumb there is a line an epoch, as in a pipe.
        if not self.console.is_interactive or distributed.this_rank().rank:
            return
        self._bar = _Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=_SPEED_OVER,
        )
        self._task = self._bar.add_task("training", total=self._total)
        self._bar.update(self._task, completed=trainer.global_step)
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar; read figures when they are due."""
        assert isinstance(pl_module, StudentModule)
        if (batch_idx + 1) % pl_module.accumulate or trainer.global_step % self.every_steps:
            return
        self.clock.settle()
        check_finite(pl_module, self.folder)
        figures = ""
        if self._bar is not None or distributed.this_rank().world_size > 1:  # all read together
            figures = self._figures(pl_module.meters.read())
        if self._bar is not None:
            self._bar.figures = figures
            self._bar.update(
                self._task,
                completed=trainer.global_step,
                description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch where there is no bar; say where loading is what takes the time."""
        assert isinstance(pl_module, StudentModule)
        figures = self._figures(pl_module.meters.read())  # with several ranks, all read together
        if distributed.this_rank().rank:
            return
        if self._bar is None:
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            parts = [epoch, figures, *_scores(self.scored())]
            say(self.console, "  ".join([*parts, f"{self._left(trainer.global_step)} left"]))
        if self.clock.loading_binds and not self._advised:
            self._advised = True
            share = self.clock.epoch_data_share
            say(
                self.console,
                f"loading takes {100 * share:.0f} % of the time: more loading processes "
                "(data.workers) where the data have them, images stored smaller, or less else on "
                "this machine",
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        self.on_train_end(trainer, pl_module)

    def _left(self, step: int) -> str:
        """Return the time that the steps left take at this process's pace, as h:mm:ss."""
        pace = (time.perf_counter() - self._began) / max(step - self._first, 1)
        return str(timedelta(seconds=round(pace * (self._total - step))))

    def _figures(self, row: Mapping[str, float | int]) -> str:
        terms = {each.removeprefix(_TERM): row[each] for each in row if each.startswith(_TERM)}
        parts = " + ".join(f"{name} {value:.3f}" for name, value in terms.items())
        shown = [
            f"loss {row['train/loss']:.3f}{f' = {parts}' if len(terms) > 1 else ''}",
            f"train acc {100 * row['train/accuracy']:.1f} %",
        ]
        if "temperature/mean" in row:
            low, high = (row[f"temperature/{quantile}"] for quantile in ("p05", "p95"))
            spread = f"± {row['temperature/std']:.2f} ({low:.2f} to {high:.2f})"
            shown.append(f"T {row['temperature/mean']:.2f} {spread}")
        return "  ".join(
            [
                *shown,
                f"{self.clock.images_per_second:.0f} img/s",
                f"data {100 * self.clock.epoch_data_share:.0f} %",
            ]
        )


def _scores(scored: Mapping[str, AnyScores]) -> list[str]:
    return [
        f"{name} {scores.headline_name} {percent(scores.headline)} %"
        for name, scores in scored.items()
    ]
