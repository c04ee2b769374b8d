"""The base of the loaders of labelled images."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from rlkd.data.loaders.batch_plan import ALONE, Plan
from rlkd.data.loaders.normaliser import Normaliser
from rlkd.distributed import Rank
from rlkd.errors import UserError
from rlkd.types import Batch

Wanted = Sequence[tuple[Int64[Tensor, " _"], Int64[Tensor, " _"]]]
"""Rows of a set, and a view of each, for each of some batches."""


@runtime_checkable
class _Images(Protocol):
    @property
    def shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...


class BatchLoader(ABC):
    """Batches of normalised images; batch k of epoch e depends on the seed, e and k alone.

    What was iterated before makes no difference. The epoch moves on only by `set_epoch`.

    Args:
        images: the images.
        batch_size: images a batch, 1 or more; of all ranks and passes together where shuffled.
        mean: one number a channel, with pixels in [0, 1].
        std: the same, above 0.
        shuffle: whether each epoch has an order of its own; otherwise rows come as they lie, and
            each is seen once, by whichever rank.
        seed: of the order and the augmentation.
        drop_last: whether a last batch that is not full is left out.
        strong_view: whether batches carry a second, strongly augmented view: a crop and a flip of
            its own and a random change of shape or colour. The first view is the same either way.
        memory_format: of the images of a batch: contiguous or channels last.
        device: where batches are put.
        part: which of several ranks this is; see `Plan`.
        passes: passes that gradients are accumulated over; see `Plan`.

    Raises:
        UserError: if an option is out of its range, or no batch is left.
    """

    def __init__(
        self,
        images: _Images,
        *,
        batch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        strong_view: bool = False,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
        part: Rank = ALONE,
        passes: int = 1,
    ) -> None:
        self.plan = Plan(
            len(images),
            batch_size,
            every_row=not shuffle,
            drop_last=drop_last,
            part=part,
            passes=passes,
        )
        channels = images.shape[0]
        self.device = torch.device(device)
        self._normalise = Normaliser(
            channels, mean=mean, std=std, memory_format=memory_format, device=self.device
        )
        if strong_view:
            check_strong_view(channels)
        self.shuffle, self.seed, self.strong_view = shuffle, seed, strong_view
        self.epoch = self._start = 0
        self.peeks = False
        """Whether each batch is made while the one before it is trained on; see `upcoming`."""
        self.upcoming: Batch | None = None
        """The batch after the one that was given last, where the loader peeks; None after the
        epoch's last."""
        self.partner: Int64[Tensor, " n"] | None = None
        self._partners_at = torch.device("cpu")

    def __len__(self) -> int:
        """Return how many batches a whole epoch has, on this rank."""
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of the epoch that was chosen."""
        made = self._batches()
        if not self.peeks:
            yield from made
            return
        coming = next(made, None)
        while coming is not None:
            given, coming = coming, next(made, None)
            self.upcoming = coming
            yield given

    @abstractmethod
    def _batches(self) -> Iterator[Batch]: ...

    @property
    @abstractmethod
    def augmentation(self) -> str:
        """How images are varied, in words."""

    @property
    @abstractmethod
    def views(self) -> int | None:
        """How many views of an image there are; None for no end of them."""

    @abstractmethod
    def batches_of(self, wanted: Wanted) -> Iterator[Batch]:
        """Make views of images that are asked for by number.

        Args:
            wanted: what is asked for, a batch at a time.
        """

    @abstractmethod
    def partner_batch(self, batch: Batch) -> Batch:
        """Return the partner of each instance of the batch that was given last.

        What stands where an instance has none is the loader's choice.

        Raises:
            ValueError: if no partners are set.
        """

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration draws."""
        self.epoch = epoch

    def start_at(self, batch: int) -> None:
        """Make the next iteration, and it alone, begin at a batch, from 0; none before is made.

        Raises:
            UserError: if the epoch has fewer batches.
        """
        check_start(batch, len(self))
        self._start = batch

    def set_partners(self, partner: Int64[Tensor, " n"] | None) -> None:
        """Give each row the row it is mixed with, -1 for none; None takes all partners away.

        Streamed partners are read along with their batch: they count from the next iteration on.

        Raises:
            ValueError: if there is not one partner a row, or a partner is no row.
        """
        if partner is not None:
            check_partners(partner, self.plan.count)
            partner = partner.to(self._partners_at)
        self.partner = partner


def check_start(batch: int, batches: int) -> None:
    """Refuse to begin beyond an epoch's end.

    Raises:
        UserError: if the epoch has fewer batches.
    """
    if not 0 <= batch <= batches:
        raise UserError(
            f"cannot start at batch {batch} of an epoch of {batches}: resume with the data "
            "and the batch_size that the checkpoint was made with"
        )


def check_partners(partner: Int64[Tensor, " n"], count: int) -> None:
    """Refuse partners that are none.

    Raises:
        ValueError: if there is not one partner a row, or a partner is no row.
    """
    if len(partner) != count:
        raise ValueError(f"{len(partner)} partners for {count} rows")
    if count and not -1 <= int(partner.min()) <= int(partner.max()) < count:
        raise ValueError(f"partners must lie in -1 to {count - 1}")


def check_strong_view(channels: int) -> None:
    """Refuse a strong view of images that RandAugment does not know.

    Raises:
        UserError: if they are neither grey nor RGB.
    """
    if channels not in (1, 3):
        raise UserError(
            "the strong view is made of images of 1 or 3 channels (RandAugment), these have "
            f"{channels}: convert them to grey or RGB, or choose a loss without a strong view"
        )
