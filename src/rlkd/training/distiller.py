"""The training step, as the paper's figure shows it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rlkd.agent import instance_state
from rlkd.data import MemoryLoader
from rlkd.exploration import Explored, Explorer
from rlkd.losses import LossInputs, Objective
from rlkd.temperature import TemperatureSource
from rlkd.training.measure import scored_logits
from rlkd.training.meters import EpochMeters
from rlkd.training.observed import Observed
from rlkd.types import Batch, Temperatures

Schedule = Callable[[Optimizer], LRScheduler]


class Distiller(L.LightningModule):
    """Trains a student: from a teacher at the temperatures of a source, or alone.

    Args:
        student: the network to train; returns logits.
        loader: the training batches.
        objective: the losses.
        optimizer: makes the student's optimiser from its parameters.
        scheduler: makes the learning-rate schedule, stepped once an epoch; None for none.
        teacher: a frozen network that returns logits; None where the student trains alone.
        temperature: sets the temperatures; needed with a teacher.
        explorer: ranks and mixes instances; None for none.
        probe: images held out of training, on which a source may have the student measured;
            None to measure on the training batch again.
        observed: calls both networks for the losses; None where they ask for logits alone.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        loader: MemoryLoader,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule | None = None,
        teacher: nn.Module | None = None,
        temperature: TemperatureSource | None = None,
        explorer: Explorer | None = None,
        probe: Batch | None = None,
        observed: Callable[[Batch], LossInputs] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.student, self.teacher, self.temperature = student, teacher, temperature
        self.objective, self.explorer = objective, explorer
        self.loader, self.probe = loader, probe
        self.observed = Observed(student, teacher) if observed is None else observed
        self.meters = EpochMeters()
        self.history: list[dict[str, float]] = []
        self.epoch_figures: dict[str, float] = {}
        self.register_buffer("bad_step", torch.tensor(-1))
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self._resume_at = 0
        self._source_updates = 0

    bad_step: Tensor
    """The first step whose loss was not finite; -1 while there is none."""

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Train on one batch."""
        explored = self._explore(batch)
        batch = explored.batch
        # 1. student and teacher logits, and features where a loss asks for them
        seen = self.observed(batch)
        # 2. close the previous transition; 3. states; 4. temperatures
        temperatures = self._temperatures(seen, explored)
        # 5. losses
        loss, _ = self.objective(replace(seen, temperature=temperatures))
        # 6. the student's step
        self._step_student(loss)
        # 7. measure what the step brought; the source learns when enough transitions are closed
        self._measure(batch)
        self._record(loss.detach(), seen.student_logits.detach(), explored)

    def configure_optimizers(self) -> Any:
        """Make the student's optimiser and its schedule; losses and sources may train along."""
        along = () if self.temperature is None else self.temperature.trained_parameters()
        trained = [*self.student.parameters(), *self.objective.parameters(), *along]
        optimizer = self._make_optimizer(trained)
        if self._make_scheduler is None:
            return optimizer
        return [optimizer], [self._make_scheduler(optimizer)]

    def on_train_start(self) -> None:
        """Enter the epoch that a checkpoint stopped in the middle of."""
        if self._resume_at:
            self.enter_epoch(self.current_epoch, start=self._resume_at)
            self._resume_at = 0

    def on_train_epoch_start(self) -> None:
        """Enter an epoch."""
        self.meters.reset()
        self.enter_epoch(self.current_epoch, start=0)

    def on_train_epoch_end(self) -> None:
        """Step the schedule and write the epoch into the history."""
        optimizer = cast(LightningOptimizer, self.optimizers())
        row = {"epoch": self.current_epoch + 1, "learning_rate": optimizer.param_groups[0]["lr"]}
        self.history.append(row | self.meters.read() | self.epoch_figures)
        self.epoch_figures = {}
        if self._make_scheduler is not None:
            cast(LRScheduler, self.lr_schedulers()).step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where in the epoch the run stands."""
        loop = self.trainer.fit_loop.epoch_loop
        done = 0 if loop.batch_progress.is_last_batch else loop.batch_idx + 1
        checkpoint["rlkd"] = {"batches_done": done, "history": self.history}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the run stood."""
        self._resume_at = checkpoint["rlkd"]["batches_done"]
        self.history = checkpoint["rlkd"]["history"]

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Leave batches alone: the loader makes them where they are needed."""
        return batch

    def _explore(self, batch: Batch) -> Explored:
        if self.explorer is None:
            return Explored(batch, learn_from=None, mixed=None)
        return self.explorer.explore(batch, self.loader.partner_batch)

    def _temperatures(self, seen: LossInputs, explored: Explored) -> Temperatures | None:
        if self.temperature is None or seen.teacher_logits is None:
            return None
        temperatures = self.temperature(
            seen.student_logits, seen.teacher_logits, seen.target, learn_from=explored.learn_from
        )
        with torch.no_grad():
            states = instance_state(seen.student_logits, seen.teacher_logits)
            self.meters.add_temperatures(temperatures, states)
        return temperatures

    def _step_student(self, loss: Tensor) -> None:
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def _measure(self, batch: Batch) -> None:
        source = self.temperature
        if source is None:
            return
        if source.observation_due:
            scored = batch if self.probe is None else self.probe
            logits = scored_logits(self.student, scored.image)
            source.observe(source.performance(logits, scored.target))
        if source.updates != self._source_updates:
            self._source_updates = source.updates
            self.meters.add_figures(source.diagnostics())

    def _record(self, loss: Tensor, student_logits: Tensor, explored: Explored) -> None:
        if self.explorer is not None:
            self.explorer.observe(explored, student_logits)
        self.meters.add_batch(loss.float(), student_logits, explored.batch.target)
        first_bad = (self.bad_step < 0) & ~torch.isfinite(loss)
        self.bad_step.copy_(torch.where(first_bad, self.global_step, self.bad_step))

    def enter_epoch(self, epoch: int, *, start: int) -> None:
        """Tell the loader, the source and the explorer where training stands.

        Args:
            epoch: counted from 0.
            start: the batch that comes first; above 0 where a run resumes within an epoch.
        """
        self.loader.set_epoch(epoch)
        self.loader.start_at(start)
        self.objective.start_epoch(epoch + 1)
        if self.temperature is not None:
            self._source_updates = self.temperature.updates
            self.temperature.start_epoch(epoch + 1)
        if self.explorer is not None:
            self.explorer.start_epoch(epoch + 1, resumed=start > 0)
            self.loader.set_partners(self.explorer.partner if self.explorer.active else None)
