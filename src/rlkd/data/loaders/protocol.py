"""The interface of a training data loader."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from rlkd.errors import UserError
from rlkd.types import Batch


@runtime_checkable
class BatchLoader(Protocol):
    """Batches of normalised images; batch k of epoch e depends on the seed, e and k alone."""

    def __len__(self) -> int:
        """Return how many batches a whole epoch has, on this rank."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of the epoch that was chosen."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration draws."""

    def start_at(self, batch: int) -> None:
        """Make the next iteration, and it alone, begin at a batch, from 0.

        Raises:
            UserError: if the epoch has fewer batches.
        """

    def set_partners(self, partner: Int64[Tensor, " n"] | None) -> None:
        """Give each row the row it is mixed with, -1 for none; None takes all partners away.

        Raises:
            ValueError: if there is not one partner a row, or a partner is no row.
        """

    def partner_batch(self, batch: Batch) -> Batch:
        """Return the partner of each instance of the batch that was given last.

        What stands where an instance has none is the loader's choice.

        Raises:
            ValueError: if no partners are set.
        """
        ...


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
