"""The training step, as the paper's figure shows it."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from rlkd.checks import values_unchecked
from rlkd.data import BatchLoader
from rlkd.engine.module import Schedule, ScheduleBy, StudentModule
from rlkd.engine.scoring import probe_for, scored_logits
from rlkd.exploration import Explored, Explorer
from rlkd.losses import LossInputs, Objective
from rlkd.tasks.classification.forward import Observed
from rlkd.temperature import TemperatureSource
from rlkd.types import Batch


class Distiller(StudentModule):
    """Trains a classifier: from a teacher at the temperatures of a source, or alone.

    Args:
        student: the network to train; returns logits.
        loader: the training batches.
        objective: the losses.
        optimizer: makes the student's optimiser from its parameters.
        scheduler: makes the learning-rate schedule; None for none.
        schedule_by: whether the schedule is stepped once an `epoch` or once a `step`.
        teacher: a frozen network that returns logits; None where the student trains alone.
        temperature: sets the temperatures; needed with a teacher.
        explorer: ranks and mixes instances; None for none.
        probe: images held out of training, for a source that is measured on them (`needs_probe`);
            any other is measured on the training batch again.
        observed: calls both networks for the losses; None where they ask for logits alone.
        passes: over how many batches of the loader the gradients of one step are averaged.

    Raises:
        UserError: if the source cannot work with several passes, or needs a probe and has none.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        loader: BatchLoader,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule | None = None,
        schedule_by: ScheduleBy = "epoch",
        teacher: nn.Module | None = None,
        temperature: TemperatureSource | None = None,
        explorer: Explorer | None = None,
        probe: Batch | None = None,
        observed: Callable[[Batch], LossInputs] | None = None,
        passes: int = 1,
    ) -> None:
        super().__init__(
            student=student,
            loader=loader,
            objective=objective,
            optimizer=optimizer,
            scheduler=scheduler,
            schedule_by=schedule_by,
            teacher=teacher,
            temperature=temperature,
            explorer=explorer,
            passes=passes,
        )
        self.loader, self.probe = loader, probe_for(temperature, probe)
        self.observed = Observed(student, teacher) if observed is None else observed

    @values_unchecked()
    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Train on one batch: a step, or one of the passes of a step."""
        explored = self._explore(batch)
        batch = explored.batch
        # 1. student and teacher logits, and features where a loss asks for them
        seen = self.observed(batch)
        # 2. close the previous transition; 3. states; 4. temperatures
        temperatures = self._temperatures(seen, seen.target, learn_from=explored.learn_from)
        # 5. losses
        loss, terms = self.objective(replace(seen, temperature=temperatures))
        # 6. the student's step, after the last of its passes
        stepped = self._step_student(loss)
        # Compiled into CUDA graphs, a student overwrites its logits when it is called again.
        self._record(loss.detach(), terms, seen.student_logits.detach(), explored)
        # 7. measure what the step brought; the source learns when enough transitions are closed
        self._measure(batch, stepped=stepped)

    def _explore(self, batch: Batch) -> Explored:
        if self.explorer is None:
            return Explored(batch, learn_from=None, mixed=None)
        return self.explorer.explore(batch, self.loader.partner_batch)

    def _measure(self, batch: Batch, *, stepped: bool) -> None:
        source = self.temperature
        if source is None:
            return
        if stepped and source.observation_due:
            scored = batch if self.probe is None else self.probe
            logits = scored_logits(self.student, scored.image)
            source.observe(source.performance(logits, scored.target))
        self._note_update(source)

    def _record(
        self, loss: Tensor, terms: dict[str, Tensor], student_logits: Tensor, explored: Explored
    ) -> None:
        if self.explorer is not None:
            self.explorer.observe(explored, student_logits)
        self.meters.add_batch(loss.float(), student_logits, explored.batch.target, terms)
        self._note_loss(loss)

    def enter_epoch(self, epoch: int, *, start: int) -> None:
        """Tell the loader, the source and the explorer where training stands."""
        super().enter_epoch(epoch, start=start)
        if self.explorer is not None and self.explorer.mixed_rows:
            self.loader.set_partners(self.explorer.partner if self.explorer.active else None)
