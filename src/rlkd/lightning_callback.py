"""A temperature source in a LightningModule of one's own."""

from typing import Any

import lightning as L
from jaxtyping import Float, Int
from torch import Tensor

from rlkd import distributed
from rlkd.engine.scoring import probe_for, scored_logits
from rlkd.errors import UserError
from rlkd.temperature import TemperatureSource

Probe = tuple[Float[Tensor, "probe channels height width"], Int[Tensor, " probe"]]
"""Images as the network takes them, and their classes."""


class TemperatureCallback(L.Callback):
    """Tells a temperature source what it must know, in a module with automatic optimisation.

    The module calls the source in its `training_step`. This does the rest of what
    `TemperatureSource` asks of a loop: it announces epochs, measures the student after the
    optimiser's step, and logs what the source says when it has learnt, as means over an epoch.

    Two things are the module's, and are checked. The source is one of its attributes, so that a
    checkpoint holds its state and a resumed run continues it. And a source that learns by itself
    is left out of the optimiser: give that `student.parameters()` and
    `source.trained_parameters()`, not `self.parameters()`.

    A measurement calls the module itself: its `forward` returns the student's logits.

    Args:
        source: sets the temperatures.
        probe: images held out of training and their classes, for a source that is measured on
            them (`needs_probe`); any other is measured on the batch just trained on, whose first
            two entries then are images and classes.

    Raises:
        UserError: if the source needs a probe and has none, or looks ahead.
    """

    def __init__(self, source: TemperatureSource, *, probe: Probe | None = None) -> None:
        if source.held_out is not None:
            raise UserError(
                f"{type(source).__name__} looks ahead before the student's pass, where a callback "
                "cannot be: use rlkd.agent.LookAhead in your training_step with "
                "automatic_optimization=False, or give reward_source=probe"
            )
        self.source, self.probe = source, probe_for(source, probe)
        self._steps = self._updates = self._announced = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep what the source trains itself out of the gradients that ranks average."""
        along = {id(each) for each in self.source.trained_parameters()}
        own = [*self.source.parameters(), *self.source.buffers()]
        distributed.exclude_from_ddp(pl_module, (each for each in own if id(each) not in along))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check where the source is, and note where it stands; move the probe to the device.

        The epoch is announced here too: a run that resumes within one does not start it again.

        Raises:
            UserError: if the module does not hold the source, or its optimiser would train it.
        """
        if all(each is not self.source for each in pl_module.modules()):
            raise UserError(
                f"{type(pl_module).__name__} does not hold the temperature source, so checkpoints "
                "would lose it: make it an attribute, self.temperature = source"
            )
        along = {id(each) for each in self.source.trained_parameters()}
        own = {id(each) for each in self.source.parameters()} - along
        groups = [group for each in trainer.optimizers for group in each.param_groups]
        if any(id(each) in own for group in groups for each in group["params"]):
            raise UserError(
                f"the optimiser of {type(pl_module).__name__} holds weights that the temperature "
                "source trains itself: give it [*self.student.parameters(), "
                "*source.trained_parameters()] in configure_optimizers"
            )
        self.source.share_update(trainer.accumulate_grad_batches)
        self._steps, self._updates = trainer.global_step, self.source.updates
        self._announced = 0
        self._announce(trainer.current_epoch + 1)
        if self.probe is not None:
            images, targets = trainer.precision_plugin.convert_input(self.probe)
            self.probe = images.to(pl_module.device), targets.to(pl_module.device)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Announce the epoch."""
        self._announce(trainer.current_epoch + 1)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Pass on the learning rate of the coming update."""
        self.source.start_step(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure what a step brought, if the source asks; log what it says, if it has learnt.

        Where gradients are accumulated, most batches end without a step, and measure nothing.

        Raises:
            UserError: if the student is to be measured on a batch of another form.
        """
        stepped = trainer.global_step != self._steps
        self._steps = trainer.global_step
        if stepped and self.source.observation_due:
            images, targets = _images_and_targets(batch) if self.probe is None else self.probe
            with trainer.precision_plugin.train_step_context():
                logits = scored_logits(pl_module, images)
            self.source.observe(self.source.performance(logits, targets))
        if self.source.updates != self._updates:
            self._updates = self.source.updates
            figures = {_column(name): each for name, each in self.source.diagnostics().items()}
            pl_module.log_dict(figures, on_step=False, on_epoch=True, batch_size=1)

    def _announce(self, epoch: int) -> None:
        if epoch != self._announced:
            self._announced = epoch
            self.source.start_epoch(epoch)


def _images_and_targets(batch: Any) -> Probe:
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise UserError(
            f"the temperature source is to be measured on a batch, and a {type(batch).__name__} "
            "does not begin with images and targets: give batches that do, or choose "
            "reward_source=probe and give the TemperatureCallback probe=(images, targets)"
        )
    return batch[0], batch[1]


def _column(name: str) -> str:
    """Name a figure as the columns of metrics.csv are named."""
    if name.startswith("temperature_"):
        return name.replace("_", "/", 1)
    return f"agent/{name}"
