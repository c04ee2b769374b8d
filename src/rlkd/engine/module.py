"""The training module of every task: the step of the paper's figure, and what is around it."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol, cast, runtime_checkable

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rlkd import distributed
from rlkd.checks import values_unchecked
from rlkd.data import BatchLoader
from rlkd.data.transforms.mixing import Mixing
from rlkd.engine.averaging import MovingAverage
from rlkd.engine.forward import Forward, Forwarded, SourceInputs
from rlkd.engine.meters import EpochMeters
from rlkd.errors import UserError, notice
from rlkd.exploration import Explored, Explorer
from rlkd.losses import LossInputs, Objective
from rlkd.temperature import TemperatureSource
from rlkd.temperature.look_ahead import Gains, TemperaturesOf, gains
from rlkd.text_files import FORMAT
from rlkd.types import Temperatures

Schedule = Callable[[Optimizer], LRScheduler]
ScheduleBy = Literal["epoch", "step"]


@runtime_checkable
class EpochLoader(Protocol):
    """Training batches that depend on the seed, the epoch and their number alone."""

    def __len__(self) -> int:
        """Return how many batches a whole epoch has."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration draws."""

    def start_at(self, batch: int) -> None:
        """Make the next iteration, and it alone, begin at a batch, from 0."""


class StudentModule(L.LightningModule):
    """Trains a student: from a teacher at the temperatures of a source, or alone.

    Args:
        student: the network to train.
        forward_pass: calls student and teacher on a batch; what differs between tasks.
        loader: the training batches.
        objective: the losses.
        optimizer: makes the student's optimiser from its parameters.
        scheduler: makes the learning-rate schedule; None for none.
        schedule_by: whether the schedule is stepped once an `epoch` or once a `step`.
        teacher: a frozen network; None where the student trains alone.
        temperature: sets the temperatures; needed with a teacher.
        explorer: ranks and mixes images; None for none.
        accumulate: over how many batches of the loader the gradients of one step are averaged.
        gradient_clip: the largest 2-norm of the gradient of a step, by all that the optimiser
            trains; above 0, None for any.
        mixing: mixes the images of each training batch; None for none.
        averaged: follows the student's steps, to be scored and left in its place; None for none.

    Raises:
        UserError: if the source cannot work with accumulated gradients, or looks ahead where that
            cannot be.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        forward_pass: Forward,
        loader: EpochLoader,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule | None = None,
        schedule_by: ScheduleBy = "epoch",
        teacher: nn.Module | None = None,
        temperature: TemperatureSource | None = None,
        explorer: Explorer | None = None,
        accumulate: int = 1,
        gradient_clip: float | None = None,
        averaged: MovingAverage | None = None,
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__()
        if temperature is not None and temperature.held_out is not None:
            _check_look_ahead(temperature, forward_pass, objective)
        self.automatic_optimization = False
        self.student, self.teacher, self.temperature = student, teacher, temperature
        self.forward_pass, self.objective, self.explorer = forward_pass, objective, explorer
        self.loader: EpochLoader = loader
        self.accumulate, self._passed = accumulate, 0
        self.gradient_clip, self.averaged, self.mixing = gradient_clip, averaged, mixing
        if temperature is not None:
            temperature.share_update(accumulate)
        self.meters = EpochMeters(objective.terms)
        self.history: list[dict[str, float]] = []
        self.epoch_figures: dict[str, float] = {}
        self.register_buffer("bad_step", torch.tensor(-1))
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self.schedule_by = schedule_by
        self._resume_at = 0
        self._source_updates = 0
        self._keep_apart()

    bad_step: Tensor
    """The first step whose loss was not finite; -1 while there is none."""

    @property
    def evaluated(self) -> nn.Module:
        """The network that is scored and that the run leaves: the student, or its average."""
        return self.student if self.averaged is None else self.averaged.network

    @values_unchecked()
    def training_step(self, batch: Any, batch_index: int) -> None:
        """Train on one batch: a step, or one of the passes of a step."""
        if self.mixing is not None:
            batch = self.mixing(batch, epoch=self.current_epoch, number=batch_index)
        explored = self._explore(batch)
        source = self.temperature
        if source is not None:
            source.start_step(self._optimizer.param_groups[0]["lr"])
        moving = None if source is None else self.forward_pass.moving(source, explored.batch)
        # 1. student and teacher logits, and features where a loss asks for them
        forwarded = self.forward_pass(explored.batch)
        # 2. close the previous transition; 3. states; 4. temperatures
        temperatures = self._temperatures(forwarded, explored, moving)
        # 5. losses
        loss, terms = self.objective(replace(forwarded.inputs, temperature=temperatures))
        self._count(loss.detach().float(), terms, forwarded, temperatures)
        # 6. the student's step, after the last of its passes
        stepped = self._step_student(loss)
        # Compiled into CUDA graphs, a student overwrites its logits when it is called again.
        self._record(loss.detach(), forwarded, explored)
        # 7. measure what the step brought; the source learns when enough transitions are closed
        self._measure(forwarded, explored, stepped=stepped)

    def try_step(self, batch: Any) -> None:
        """Do what takes memory in a step, and leave the networks as they are but for gradients."""
        source = self.temperature
        moving = None if source is None else self.forward_pass.moving(source, batch)
        forwarded = self.forward_pass(batch)
        temperatures = self._temperatures(forwarded, Explored(batch, None, None), moving)
        loss, _ = self.objective(replace(forwarded.inputs, temperature=temperatures))
        loss.backward()

    def configure_optimizers(self) -> Any:
        """Make the student's optimiser and its schedule; losses and sources may train along."""
        optimizer = self._make_optimizer(self._trained())
        if self._make_scheduler is None:
            return optimizer
        return [optimizer], [self._make_scheduler(optimizer)]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient: that of all passes and ranks, by now no longer scaled.

        Source: Pascanu et al., "On the difficulty of training recurrent neural networks" (2013).
        """
        if self.gradient_clip is not None:
            trained = (each for group in optimizer.param_groups for each in group["params"])
            nn.utils.clip_grad_norm_(trained, self.gradient_clip)

    def on_train_start(self) -> None:
        """Enter the epoch that a checkpoint stopped in the middle of.

        Raises:
            UserError: if the gradient is to be clipped where nobody can.
        """
        fused = getattr(self.trainer.optimizers[0], "_step_supports_amp_scaling", False)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if self.gradient_clip is not None and fused and scaler is not None:
            raise UserError(
                "trainer.gradient_clip: in 16-mixed a fused optimiser takes the scale off the "
                "gradient itself, too late for it to be clipped; leave optimizer.fused out"
            )
        if self._resume_at:
            self.enter_epoch(self.current_epoch, start=self._resume_at)
            self._resume_at = 0

    def on_train_epoch_start(self) -> None:
        """Enter an epoch."""
        self.meters.reset()
        self.enter_epoch(self.current_epoch, start=0)

    def on_train_epoch_end(self) -> None:
        """Step the schedule and write the epoch into the history."""
        rate = self._optimizer.param_groups[0]["lr"]
        row = {"epoch": self.current_epoch + 1, "learning_rate": rate}
        self.history.append(row | self.meters.read() | self.epoch_figures)
        self.epoch_figures = {}
        if distributed.is_rank_zero():
            _report_left_out(self.history[-1])
        self._step_schedule("epoch")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where in the epoch the run stands, and what each rank has of its own.

        Raises:
            RanksDifferError: if the temperature sources of two ranks are not alike to the bit.
        """
        own: list[dict[str, Tensor]] = []
        if distributed.this_rank().world_size > 1:
            if self.temperature is not None:
                distributed.require_alike(self.temperature, "the temperature source")
            counts = self.meters.counts()
            checkpoint["state_dict"] |= _of_meters(counts)
            own = distributed.gather_objects(
                {name: each.cpu() for name, each in self.meters.named_buffers()}
            )
        loop = self.trainer.fit_loop.epoch_loop
        done = 0 if loop.batch_progress.is_last_batch else loop.batch_idx + 1
        stand = {"batches_done": done, "history": self.history, "meters": own}
        checkpoint["rlkd"] = {"format": FORMAT, **stand}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the run stood.

        Each rank goes on with what it had counted itself: the sum of all, which rank 0 goes on with
        where there are now more or fewer of them, is rounded in another order.
        """
        self._resume_at = checkpoint["rlkd"]["batches_done"]
        self.history = checkpoint["rlkd"]["history"]
        own, here = checkpoint["rlkd"]["meters"], distributed.this_rank()
        if len(own) == here.world_size:
            checkpoint["state_dict"] |= _of_meters(own[here.rank])
        elif here.rank > 0:
            for name in _of_meters(dict(self.meters.named_buffers())):
                checkpoint["state_dict"][name].zero_()

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leave batches alone: the loader makes them where they are needed."""
        return batch

    def enter_epoch(self, epoch: int, *, start: int) -> None:
        """Set the loader, the losses, the source and the explorer to where training stands.

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
            if self.explorer.mixed_rows:
                active = self.explorer.active
                self._mixing_loader.set_partners(self.explorer.partner if active else None)

    def _trained(self) -> list[nn.Parameter]:
        along = () if self.temperature is None else self.temperature.trained_parameters()
        return [*self.student.parameters(), *self.objective.parameters(), *along]

    @property
    def _optimizer(self) -> LightningOptimizer | Optimizer:
        return cast(LightningOptimizer, self.optimizers())

    @property
    def _mixing_loader(self) -> BatchLoader:
        return cast(BatchLoader, self.loader)

    def _explore(self, batch: Any) -> Explored[Any]:
        if self.explorer is None:
            return Explored(batch, learn_from=None, mixed=None)
        return self.explorer.explore(batch, lambda each: self._mixing_loader.partner_batch(each))

    def _temperatures(
        self,
        forwarded: Forwarded,
        explored: Explored[Any],
        moving: Float[Tensor, "instances classes"] | None = None,
    ) -> Temperatures | None:
        """Let the source set a temperature for every instance."""
        student, teacher = forwarded.inputs.student_logits, forwarded.inputs.teacher_logits
        if self.temperature is None or teacher is None:
            return None
        if self.temperature.look_ahead_due:
            gain_of = None if moving is None else partial(self._gains, forwarded.inputs, moving)
            self.temperature.look_ahead(gain_of)
        learn_from = explored.learn_from
        if learn_from is not None and forwarded.parts is not None:
            learn_from = learn_from[forwarded.parts.image]
        given = SourceInputs(student, teacher, forwarded.target, learn_from)
        if forwarded.parts is not None and distributed.this_rank().world_size > 1:
            given = given.alike_in_length()
        temperatures = self.temperature(*given[:3], learn_from=given.learn_from)
        if len(given.target) > len(student):
            temperatures = temperatures.first(len(student))
        return temperatures

    def _gains(
        self,
        inputs: LossInputs,
        moving: Float[Tensor, "instances classes"],
        temperatures_of: TemperaturesOf,
    ) -> Gains:
        """Return what temperatures of a batch would bring."""

        def loss(logits: Float[Tensor, "instances classes"]) -> Float[Tensor, ""]:
            given = replace(inputs, student_logits=logits, temperature=temperatures_of(logits))
            return self.objective.tempered(given)

        return gains(loss, inputs.student_logits, moving)

    def _step_student(self, loss: Tensor) -> bool:
        """Add a pass's gradient; after the last of a step, make it. Return whether it was made."""
        optimizer = self._optimizer
        if self._passed == 0:
            optimizer.zero_grad()
        self._passed = (self._passed + 1) % self.accumulate
        strategy: Any = self.trainer.strategy
        waits = self._passed > 0 and isinstance(strategy, ParallelStrategy)
        with strategy.block_backward_sync() if waits else nullcontext():
            self.manual_backward(loss if self.accumulate == 1 else loss / self.accumulate)
        if self._passed > 0:
            return False
        optimizer.step()
        if self.averaged is not None:
            self.averaged.update(self.student, first=self.global_step == 1)
        self._step_schedule("step")
        return True

    def _step_schedule(self, now: ScheduleBy) -> None:
        if self._make_scheduler is not None and self.schedule_by == now:
            cast(LRScheduler, self.lr_schedulers()).step()

    def _measure(self, forwarded: Forwarded, explored: Explored[Any], *, stepped: bool) -> None:
        """Give the source the measurement that it asks for; sum its figures if it has learnt."""
        source = self.temperature
        if source is None:
            return
        if stepped and source.observation_due:
            source.observe(self.forward_pass.performance(source, explored.batch, forwarded))
        if source.updates != self._source_updates:
            self._source_updates = source.updates
            self.meters.add_figures(source.diagnostics())

    def _count(
        self,
        loss: Float[Tensor, ""],
        terms: Mapping[str, Float[Tensor, ""]],
        forwarded: Forwarded,
        temperatures: Temperatures | None,
    ) -> None:
        """Count a batch: before its gradient, so that CUDA graphs still hold its logits."""
        inputs = forwarded.inputs
        logits, taught = inputs.student_logits.detach(), inputs.teacher_logits
        if temperatures is None or taught is None:
            self.meters.add_batch(loss, logits, forwarded.target, terms)
        else:
            self.meters.add_distilled(loss, logits, taught, forwarded.target, temperatures, terms)

    def _record(
        self, loss: Float[Tensor, ""], forwarded: Forwarded, explored: Explored[Any]
    ) -> None:
        """Rank the images, and keep the number of the first step whose loss is not finite."""
        if self.explorer is not None:
            part_of = None if forwarded.parts is None else forwarded.parts.image
            self.explorer.observe(explored, forwarded.inputs.student_logits.detach(), part_of)
        first_bad = (self.bad_step < 0) & ~torch.isfinite(loss)
        self.bad_step.copy_(torch.where(first_bad, self.global_step, self.bad_step))

    def _keep_apart(self) -> None:
        """Name what ranks hold alike by construction, or each its own."""
        trained = {id(each) for each in self._trained()}
        apart = [self.bad_step, *self.meters.buffers()]
        for held in (
            *(self.temperature, self.teacher, self.explorer, self.objective),
            self.averaged,
        ):
            apart += [] if held is None else [*held.parameters(), *held.buffers()]
        distributed.exclude_from_ddp(self, (each for each in apart if id(each) not in trained))


def _check_look_ahead(
    source: TemperatureSource, forward_pass: Forward, objective: Objective
) -> None:
    name = type(source).__name__
    if not forward_pass.looks_ahead:
        raise UserError(
            f"{name} looks ahead, which is for the classification of images: give temperature=rlkd "
            "temperature.reward_source=probe, or another temperature"
        )
    for term in objective.know:
        others = {each for each in objective.asked[term].names if each.startswith("student_")}
        if others - {"student_logits"}:
            raise UserError(
                f"{name} looks ahead at what temperatures do by the student's logits, and the loss "
                f"{term} of this method asks for {', '.join(sorted(others - {'student_logits'}))} "
                "too: give method=kd, or a temperature that does not look ahead"
            )
    if not objective.know:
        raise UserError(
            f"{name} looks ahead at what temperatures do to the loss, and no term of this method "
            "has one: give method=kd, or temperature=constant"
        )


def _of_meters(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"meters.{name}": each for name, each in buffers.items()}


def _report_left_out(row: Mapping[str, float | int]) -> None:
    """Say what an epoch's figures count as not finite, and so as not learnt from."""
    for role in ("teacher", "student"):
        if bad := int(row.get(f"train/bad_rows_{role}", 0)):
            notice(
                f"epoch {row['epoch']:.0f}: {bad} rows of the {role}'s logits were not finite; "
                "they got the base temperature, and the temperature source learnt nothing from them"
            )
    if row.get("agent/update_left_out", 0):
        notice(
            f"epoch {row['epoch']:.0f}: the temperature agent dropped updates that would have made "
            "a weight NaN or infinite (agent/update_left_out)"
        )
