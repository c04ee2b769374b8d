"""The training step of a detector: the same numbered steps, with regions as instances."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from jaxtyping import Bool, Int
from torch import Tensor
from torch.optim import Optimizer
from torchvision.models.detection import FasterRCNN

from rlkd.checks import values_unchecked
from rlkd.engine.module import EpochLoader, Schedule, ScheduleBy, StudentModule
from rlkd.engine.scoring import probe_for
from rlkd.exploration import Explorer
from rlkd.losses import LossInputs, Objective
from rlkd.models import Teacher
from rlkd.tasks.detection.forward import ObservedRegions, Regions, foreground
from rlkd.temperature import TemperatureSource
from rlkd.types import DetectionBatch

Performance = Literal["foreground", "loss"]


class DetectorDistiller(StudentModule):
    """Trains a two-stage detector: from a teacher at the temperatures of a source, or alone.

    Every region that the student samples is an instance. A source's performance is the accuracy on
    regions that hold an object, or minus the detector's loss. Exploration ranks images by the mean
    entropy of their regions and mixes none.

    Args:
        student: the detector to train.
        loader: the training batches.
        objective: the losses; the student's own are among them as `student_loss`.
        optimizer: makes the student's optimiser from its parameters.
        observed: calls both networks on shared regions.
        scheduler: makes the learning-rate schedule; None for none.
        schedule_by: whether the schedule is stepped once an `epoch` or once a `step`.
        teacher: a frozen detector; None where the student trains alone.
        temperature: sets the temperatures; needed with a teacher.
        explorer: ranks images; None for none.
        probe: images held out of training, for a source that is measured on them (`needs_probe`);
            any other is measured on the training batch again.
        performance: what is measured for a source that asks: `foreground`, the source's own metric
            on regions with an object, or `loss`, minus the detector's loss.

    Raises:
        UserError: if the source needs a probe and has none.
    """

    def __init__(
        self,
        *,
        student: FasterRCNN,
        loader: EpochLoader,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        observed: ObservedRegions,
        scheduler: Schedule | None = None,
        schedule_by: ScheduleBy = "epoch",
        teacher: Teacher | None = None,
        temperature: TemperatureSource | None = None,
        explorer: Explorer | None = None,
        probe: DetectionBatch | None = None,
        performance: Performance = "foreground",
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
        )
        self.observed, self.performance = observed, performance
        self.probe = probe_for(temperature, probe)
        self._around_probe = None if self.probe is None else observed.around(self.probe)

    @values_unchecked()
    def training_step(self, batch: DetectionBatch, batch_index: int) -> None:
        """Train on one batch of images."""
        # 1. the student's regions, and the logits of student and teacher on them
        seen, regions = self.observed(batch)
        # 2. close the previous transition; 3. states; 4. temperatures
        scored = foreground(seen.target)
        learn_from = self._learn_from(batch, regions)
        temperatures = self._temperatures(seen, scored, learn_from=learn_from)
        # 5. losses
        loss, terms = self.objective(replace(seen, temperature=temperatures))
        # 6. the student's step
        self._step_student(loss)
        # 7. measure what the step brought; the source learns when enough transitions are closed
        self._measure(batch, regions, scored)
        self._record(loss.detach(), terms, batch, seen, regions, scored)

    def _learn_from(
        self, batch: DetectionBatch, regions: Regions
    ) -> Bool[Tensor, " regions"] | None:
        if self.explorer is None or not self.explorer.active:
            return None
        return self.explorer.selected[batch.index][regions.image]

    def _measure(
        self, batch: DetectionBatch, regions: Regions, scored: Int[Tensor, " regions"]
    ) -> None:
        source = self.temperature
        if source is None:
            return
        if source.observation_due:
            if self.performance == "loss":
                source.observe(-self.observed.loss(self.probe or batch))
            else:
                regions, scored = self._around_probe or (regions, scored)
                source.observe(source.performance(self.observed.logits(regions), scored))
        self._note_update(source)

    def _record(
        self,
        loss: Tensor,
        terms: dict[str, Tensor],
        batch: DetectionBatch,
        seen: LossInputs,
        regions: Regions,
        scored: Int[Tensor, " regions"],
    ) -> None:
        logits = seen.student_logits.detach()
        if self.explorer is not None:
            self.explorer.observe_parts(batch.index, logits, regions.image)
        self.meters.add_batch(loss.float(), logits, scored, terms)
        self._note_loss(loss)
