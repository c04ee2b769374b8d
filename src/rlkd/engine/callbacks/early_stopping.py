"""The end of a run whose student no longer gets better on images that are held out to select by."""

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from rlkd.engine.callbacks.metrics import LogEpochs

_SPLIT = "validation"


class StopEarly(EarlyStopping):
    """Lightning's `EarlyStopping` on the headline of the validation images, such as accuracy.

    Epochs that are not scored count nowhere, and a headline that is not known is no better. A run
    that was killed after it had stopped does not go on when it is resumed.

    Args:
        log: has the scores of each epoch.
        patience: scorings in a row without a better headline, after which the run ends.
    """

    def __init__(self, log: LogEpochs, *, patience: int) -> None:
        super().__init__(
            _SPLIT, mode="max", patience=patience, check_on_train_epoch_end=True, check_finite=False
        )
        self.log_epochs = log

    @property
    def stopped(self) -> bool:
        """Whether it has ended the run."""
        return self.stopping_reason != EarlyStoppingReason.NOT_STOPPED

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End a run at once that has ended before."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the epoch's headline with the best, if it was scored."""
        scored = self.log_epochs.latest.get(_SPLIT)
        if scored is not None:
            pl_module.log(_SPLIT, scored.headline, logger=False, sync_dist=True)
            super().on_train_epoch_end(trainer, pl_module)
