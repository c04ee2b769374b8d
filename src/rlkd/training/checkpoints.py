"""Checkpoints that are whole or absent, and that resume a run exactly."""

import contextlib
import os
import signal
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from rlkd.errors import DivergenceError, UserError
from rlkd.training.module import StudentModule


class Interrupted(Exception):  # noqa: N818  an order, not an error
    """The user asked to stop; the message says where a resumed run goes on."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there only when it is whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save a checkpoint.

        Raises:
            UserError: if it cannot be written; what stood at the path is still there.
        """
        place = Path(path)
        unfinished = place.with_name(f".{place.name}.tmp")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(unfinished, place)
            finally:
                unfinished.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:
            # torch's zip writer turns a full disk into a RuntimeError of its own.
            raise UserError(
                f"cannot save the checkpoint {place} ({_one_line(error)}): free some space and run "
                "the same command again, it goes on from the last good checkpoint"
            ) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        """Load a checkpoint, running no pickled code of it.

        Raises:
            UserError: if it is damaged.
        """
        try:
            return super().load_checkpoint(Path(path), map_location, weights_only)
        except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
            raise UserError(
                f"cannot read the checkpoint {path} ({_one_line(error)}): remove it to begin again"
            ) from error


class KeepLast(Checkpoint):
    """Keeps `last.ckpt`: at the end of each epoch, every so many steps, and on Ctrl-C.

    No checkpoint is written once the loss or the weights have ceased to be finite, so the last one
    is good. It holds torch's random generators too, which a student with dropout draws from.

    Args:
        path: where to keep it.
        every_steps: steps between checkpoints within an epoch; None for epoch ends only.
    """

    def __init__(self, path: Path, *, every_steps: int | None = None) -> None:
        super().__init__()
        self.path = path
        self.every_steps = every_steps
        self.stop_asked = False
        self._before: Any = None
        self._random: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen for Ctrl-C; a second one stops without a checkpoint of its own."""

        def ask(_signal: int, _frame: FrameType | None) -> None:
            if self.stop_asked:
                # Lightning turns a KeyboardInterrupt into an exit with code 1.
                raise Interrupted(self._resumption())
            self.stop_asked = True

        # In another thread Ctrl-C is somebody else's.
        with contextlib.suppress(ValueError):
            self._before = signal.signal(signal.SIGINT, ask)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set torch's random generators to where the checkpoint left them."""
        if self._random is not None:
            torch.set_rng_state(self._random["cpu"])
            if torch.cuda.is_available() and self._random["cuda"]:
                torch.cuda.set_rng_state_all(self._random["cuda"])

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when steps are due, and stop when asked."""
        last_of_epoch = batch_idx + 1 == trainer.num_training_batches
        due = self.every_steps is not None and trainer.global_step % self.every_steps == 0
        if last_of_epoch:
            return
        if due or self.stop_asked:
            self._save(trainer, pl_module)
        self._stop_if_asked()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the epoch, and stop when asked."""
        self._save(trainer, pl_module)
        self._stop_if_asked()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def state_dict(self) -> dict[str, Any]:
        """Return where torch's random generators stand."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the generators' states for the start of training."""
        self._random = state_dict

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, StudentModule)
        check_finite(pl_module, self.path)
        trainer.save_checkpoint(self.path, weights_only=False)

    def _stop_if_asked(self) -> None:
        if self.stop_asked:
            raise Interrupted(self._resumption())

    def _resumption(self) -> str:
        if self.path.is_file():
            return f"the same command goes on from {self.path}"
        return f"there is no checkpoint yet, {self.path} is written after each epoch"

    def _give_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


def check_finite(module: StudentModule, checkpoint: Path) -> None:
    """Raise once the loss or a weight has been NaN or infinite. Waits for the device.

    Raises:
        DivergenceError: naming the first such step.
    """
    step, sound = int(module.bad_step), True
    if step < 0:
        state = module.student.state_dict().values()
        sound = all(bool(each.isfinite().all()) for each in state)
    if step < 0 and sound:
        return
    what = f"the loss is not finite since step {step}"
    if not sound:
        what = f"the student's weights are not finite after step {module.global_step}"
    kept = f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "none was saved"
    raise DivergenceError(
        f"{what}: try a lower optimizer.lr, a warm-up, or trainer.precision=32-true; {kept}"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
