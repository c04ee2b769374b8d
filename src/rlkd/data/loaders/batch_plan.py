"""Which rows of an epoch's order each batch of a rank is made of."""

from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor

from rlkd import arguments
from rlkd.distributed import Rank
from rlkd.errors import UserError

ALONE = Rank()
"""One process that shares with nobody."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches that one rank makes of an epoch.

    In training the order is cut into global batches, a global batch into as many contiguous passes
    as gradients are accumulated over, and a pass into one contiguous part a rank: all ranks get
    equally many rows. A last global batch that is not full is cut to a whole multiple of ranks and
    passes. Where every row is to be seen once, rank r takes rows r, r + world, ... instead.

    Args:
        count: rows of the set.
        batch_size: rows of a global batch; of a rank's batch where every row is to be seen.
        every_row: whether each row is seen exactly once, by whichever rank, as in an evaluation.
        drop_last: whether a last batch that is not full is left out.
        part: which of several ranks this is.
        passes: passes that a global batch is split into; of no effect where every row is seen.

    Raises:
        UserError: if an option is out of its range, a global batch cannot be shared out evenly, or
            no batch is left.
    """

    count: int
    batch_size: int
    every_row: bool = False
    drop_last: bool = False
    part: Rank = ALONE
    passes: int = 1

    def __post_init__(self) -> None:
        arguments.count("batch_size", self.batch_size)
        arguments.count("trainer.accumulate", self.passes)
        if not self.every_row and self.batch_size % self.shares:
            raise UserError(
                f"trainer.batch_size={self.batch_size} is the batch of all {self.part.world_size} "
                f"ranks and {self.passes} accumulated passes together: "
                f"give a multiple of {self.shares}"
            )
        if self.drop_last and self.count < self.batch_size:
            raise UserError(
                f"batch_size={self.batch_size} with drop_last leaves no batch of {self.count} "
                "images: give a smaller batch_size"
            )
        if self.count and not self.every_row and not len(self):
            raise UserError(
                f"{self.count} images are too few for {self.part.world_size} ranks of "
                f"{self.passes} accumulated passes: give more images, or fewer ranks or passes"
            )

    @property
    def shares(self) -> int:
        """How many equal shares a global batch is split into: ranks times passes."""
        return self.part.world_size * self.passes

    def __len__(self) -> int:
        """Return how many batches a whole epoch has for this rank."""
        own = len(range(self.part.rank, self.count, self.part.world_size))
        whole, rest = divmod(own if self.every_row else self.count, self.batch_size)
        least = 1 if self.every_row else self.shares
        batches = whole if self.drop_last or rest < least else whole + 1
        return batches if self.every_row else batches * self.passes

    def rows(self, order: Int64[Tensor, " rows"], position: int) -> Int64[Tensor, " batch"]:
        """Return the rows of one batch.

        Args:
            order: all rows in the epoch's order.
            position: of the batch, from 0.
        """
        if self.every_row:
            own = order[self.part.rank :: self.part.world_size]
            return own[position * self.batch_size : (position + 1) * self.batch_size]
        number, which = divmod(position, self.passes)
        batch = order[number * self.batch_size : (number + 1) * self.batch_size]
        size = len(batch) // self.shares * self.part.world_size
        return self.part.share_of(batch[which * size : (which + 1) * size])


def leaves_one(count: int, batch_size: int, shares: int) -> bool:
    """Tell whether the last batch of an epoch would have one row a share, too few for batch norms.

    Args:
        count: rows of the set.
        batch_size: rows of a global batch.
        shares: ranks times passes.
    """
    return count % batch_size // shares == 1
