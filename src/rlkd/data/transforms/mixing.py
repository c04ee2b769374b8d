"""Batches whose images are mixed with each other, and their labels with them."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from rlkd import distributed
from rlkd.data.seeding import generator_of
from rlkd.types import Batch

Mix = Literal["mixup", "cutmix"]
_STREAM = 3


class Mixing:
    """Mixes each image of a batch with the one before it: torchvision's MixUp or CutMix.

    One share, or one box, is drawn for a batch. The draw depends on the seed, the epoch, the number
    of the batch and the rank, and leaves torch's own generator where it was. Each rank, and each
    pass of an accumulated step, mixes among its own images. A second, strong view is mixed alike.

    Args:
        kind: `mixup`, the weighted mean of both images; `cutmix`, a box of one put into the other.
        alpha: of the Beta(alpha, alpha) that the share is drawn from, above 0; 1 is uniform.
        num_classes: of the data.
        seed: of the run.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018); Yun et al.,
    "CutMix: Regularization Strategy to Train Strong Classifiers" (ICCV 2019); with the
    teacher on the mixed image, Beyer et al., "Knowledge distillation: A good teacher is patient and
    consistent" (CVPR 2022).
    """

    def __init__(self, kind: Mix, *, alpha: float | int, num_classes: int, seed: int) -> None:
        from torchvision.transforms import v2  # takes a second, which few runs need

        made: Any = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind]
        self._mix: Any = made(alpha=float(alpha), num_classes=num_classes)
        self.seed = seed

    def __call__(self, batch: Batch, *, epoch: int, number: int) -> Batch:
        """Return a batch of mixed images, whose targets are distributions over classes.

        Args:
            batch: as the data gave it.
            epoch: from 0.
            number: of the batch in its epoch, from 0.
        """
        key = (self.seed, epoch, _STREAM, number, distributed.this_rank().rank)
        drawn = generator_of(*key).get_state()

        def mixed(view: Tensor) -> tuple[Tensor, Tensor]:
            torch.set_rng_state(drawn)
            return self._mix(view, batch.target)

        with torch.random.fork_rng(devices=[]):
            image, target = mixed(batch.image)
            strong = None if batch.strong is None else mixed(batch.strong)[0]
        return replace(
            batch,
            image=image,
            target=target,
            strong=strong,
            view=None if batch.view is None else torch.full_like(batch.view, -1),
        )
