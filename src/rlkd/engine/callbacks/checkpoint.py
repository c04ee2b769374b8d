"""When a run is checkpointed and stops, and how it goes on exactly."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from rlkd import distributed
from rlkd.engine.checkpoint_store import CheckpointStore
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.signals import STOPPING, Interrupted, StopSignals
from rlkd.errors import DivergenceError, UserError
from rlkd.models.weight_files import read_weights

MEETING = {"cpu": 1, "cuda": 10}
"""Steps between two agreements of several ranks on what the clock or a signal asks of one: each of
them waits for the device."""


class StoredCheckpointIO(TorchCheckpointIO):
    """Lightning's way to a store.

    Args:
        store: has the checkpoints.
        keep: how many of them.
    """

    def __init__(self, store: CheckpointStore, *, keep: int) -> None:
        self.store, self.keep = store, keep

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save a checkpoint of the step that it says, which the path names too.

        Raises:
            UserError: if it cannot be written; what was there still is.
        """
        self.store.save(checkpoint, checkpoint["global_step"], keep=self.keep)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        """Load a checkpoint, running no pickled code of it.

        Raises:
            UserError: if it is damaged.
        """
        return read_weights(Path(path))


class KeepLast(Checkpoint):
    """Keeps a run's last checkpoints, and stops it when a signal asks.

    One is taken at the end of each epoch, every so many steps, every so many minutes, and after the
    step in which a signal came, always between two optimiser steps. Several ranks agree on what the
    clock and signals ask every few steps, see `MEETING`, and at the end of an epoch.

    No checkpoint is written once the loss or the weights have ceased to be finite, so the last one
    is good. It holds the random generators of torch on every rank too, which a student with dropout
    draws from.

    Args:
        folder: of the run.
        every_steps: steps between checkpoints within an epoch; None for no such.
        every_minutes: minutes between checkpoints; None for no such.
        show: shows a line.
        before_reading: called before anything is read from the device.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        show: Callable[[str], None] = print,
        before_reading: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.folder, self.show, self.before_reading = folder, show, before_reading
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.signals = StopSignals(self._resumption)
        self._saved_at = monotonic()
        self._random: dict[str, Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set torch's random generators to where the checkpoint left them; start the clock."""
        self.signals.answer()
        self._saved_at = monotonic()
        if self._random is not None:
            torch.set_rng_state(self._random["cpu"])
            if torch.cuda.is_available() and self._random["cuda"] is not None:
                torch.cuda.set_rng_state(self._random["cuda"])

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is due, and stop when asked."""
        assert isinstance(pl_module, StudentModule)
        passes = batch_idx + 1
        if passes == trainer.num_training_batches or passes % pl_module.accumulate:
            return
        late, asked = False, None
        meeting = MEETING.get(pl_module.device.type, 1)
        if (
            distributed.this_rank().world_size == 1
            or (passes // pl_module.accumulate) % meeting == 0
        ):
            late, asked = self._agreed(pl_module)
        due = self.every_steps is not None and trainer.global_step % self.every_steps == 0
        if due or late or asked is not None:
            self._save(trainer, pl_module)
        self._stop(asked)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the epoch, and stop when asked."""
        assert isinstance(pl_module, StudentModule)
        _, asked = self._agreed(pl_module)
        self._save(trainer, pl_module)
        self._stop(asked)

    def state_dict(self) -> dict[str, Any]:
        """Return where torch's random generators stand on every rank, each on its own device."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return {"ranks": distributed.gather_objects({"cpu": torch.get_rng_state(), "cuda": cuda})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states of this rank's generators for the start of training.

        Where the number of ranks has changed none of them fits, which is reported.
        """
        held, here = state_dict["ranks"], distributed.this_rank()
        if len(held) == here.world_size:
            self._random = held[here.rank]
        elif here.rank == 0:
            before = f"{len(held)} rank{'s' if len(held) > 1 else ''}"
            self.show(
                f"this run was checkpointed by {before} and goes on with {here.world_size}, so it "
                "is no longer the unbroken run to the bit: sums are rounded in another order, "
                "batch norms see other rows together, and dropout and all else that draws "
                "from torch's own generators draws anew; the order of instances, augmentation and "
                "the temperatures' noise stay the same"
            )

    def _agreed(self, module: StudentModule) -> tuple[bool, signal.Signals | None]:
        """Return whether minutes are due, and which signal asks to stop: on all ranks the same."""
        asked = self.signals.asked
        late = (
            self.every_minutes is not None
            and monotonic() - self._saved_at >= 60 * self.every_minutes
        )
        if distributed.this_rank().world_size == 1:
            return late, asked
        self.before_reading()
        wishes = torch.tensor([late, *(asked == each for each in STOPPING)], dtype=torch.int64)
        late, *stops = distributed.sum_over_ranks(wishes.to(module.device)).tolist()
        first = (each for each, count in zip(STOPPING, stops, strict=True) if count)
        return late > 0, next(first, None)

    def _save(self, trainer: L.Trainer, module: StudentModule) -> None:
        self.before_reading()
        check_finite(module, self.folder)
        fault: UserError | None = None
        try:
            place = self.folder.checkpoints.place(trainer.global_step)
            trainer.save_checkpoint(place, weights_only=False)
        except UserError as error:
            # Only rank 0 writes; the others wait where it would have met them.
            trainer.strategy.barrier("Trainer.save_checkpoint")
            fault = error
        faults = distributed.gather_objects(None if fault is None else str(fault))
        if fault is not None:
            raise fault
        _refuse(faults, UserError)
        self._saved_at = monotonic()

    def _stop(self, asked: signal.Signals | None) -> None:
        if asked is not None:
            raise Interrupted(asked, self._resumption())

    def _resumption(self) -> str:
        newest = self.folder.checkpoint
        if newest is not None:
            return f"the same command goes on from {newest}"
        return f"there is no checkpoint in {self.folder.path} yet, the same command begins again"


def check_finite(module: StudentModule, folder: RunFolder) -> None:
    """Raise on all ranks once the loss or a weight of one has been NaN or infinite.

    Waits for the device, and for the ranks, which all call it.

    Raises:
        DivergenceError: naming the first such step.
    """
    _refuse(distributed.gather_objects(_not_finite(module, folder)), DivergenceError)


def _not_finite(module: StudentModule, folder: RunFolder) -> str | None:
    step, sound = int(module.bad_step), True
    if step < 0:
        state = module.student.state_dict().values()
        sound = all(bool(each.isfinite().all()) for each in state)
    if step < 0 and sound:
        return None
    what = f"the loss is not finite since step {step}"
    if not sound:
        what = f"the student's weights are not finite after step {module.global_step}"
    newest = folder.checkpoint
    kept = "none was saved" if newest is None else f"the last good checkpoint is {newest}"
    remedy = "try a lower optimizer.lr, a warm-up, or trainer.precision=32-true"
    if bad := int(module.meters.bad_rows[0]):  # of this rank: the others may not come here
        what += f", and so are {bad} rows of the teacher's logits"
        remedy = "check its weights and the images, or try trainer.precision=32-true"
    return f"{what}: {remedy}; {kept}"


def _refuse(faults: list[str | None], kind: type[UserError]) -> None:
    """Raise the first fault, if there is one."""
    fault = next((each for each in faults if each is not None), None)
    if fault is not None:
        raise kind(fault)
