"""Efficient exploration: in its first epochs the agent learns from what is worth most."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlkd import arguments
from rlkd.exploration.entropy import NO_PARTNER, Bands, EntropyRecord, rank
from rlkd.exploration.mixup import mix
from rlkd.types import Batch, DetectionBatch

AnyBatch = TypeVar("AnyBatch", bound=Batch | DetectionBatch)


@dataclass(frozen=True, slots=True)
class Explored(Generic[AnyBatch]):
    """A batch as the student and the agent are to see it."""

    batch: AnyBatch
    learn_from: Bool[Tensor, " batch"] | None
    """The rows that the agent learns from; None for all."""
    mixed: Bool[Tensor, " batch"] | None
    """The rows whose image is mixed; None for none."""


class Explorer(nn.Module):
    """Ranks the instances, mixes a band of them, and selects the rows that the agent learns from.

    Args:
        instances: size of the training set.
        num_classes: of the data.
        first_epoch: the agent's first, counted from 1.
        epochs: how many epochs are explored.
        bands: which ranks play which part.
        mix_weight: lambda, the share of the uncertain instance in the mixed image; in [0, 1].
        seed: of the order of instances that the student has not seen yet.

    Raises:
        UserError: for a value out of range.
    """

    selected: Tensor
    partner: Tensor
    mixed_rows: int
    """Number of rows of the training set that are mixed in each explored epoch."""

    def __init__(
        self,
        *,
        instances: int,
        num_classes: int,
        first_epoch: int,
        epochs: int,
        bands: Bands,
        mix_weight: float = 0.7,
        seed: int = 0,
    ) -> None:
        super().__init__()
        arguments.count("instances", instances)
        arguments.count("num_classes", num_classes)
        arguments.count("first_epoch", first_epoch)
        arguments.count("exploration.epochs", epochs, least=0)
        arguments.number("exploration.mix_weight", mix_weight, least=0, most=1)
        arguments.seed("seed", seed)
        self.num_classes, self.bands, self.mix_weight = num_classes, bands, mix_weight
        self.seed = seed
        self.explored_epochs = range(first_epoch, first_epoch + epochs)
        self.mixed_rows = bands.width(instances)
        self.active = False
        self.record = EntropyRecord(instances)
        self.register_buffer("selected", torch.ones(instances, dtype=torch.bool))
        self.register_buffer("partner", torch.full((instances,), NO_PARTNER))

    def start_epoch(self, epoch: int, *, resumed: bool = False) -> None:
        """Rank the instances if this epoch, counted from 1, is explored.

        Args:
            epoch: the epoch that begins.
            resumed: whether it began in an earlier process; its ranking then stands.
        """
        self.active = epoch in self.explored_epochs
        if self.active and not resumed:
            ranking = rank(self.record.entropy, self.bands, seed=self.seed)
            self.selected.copy_(ranking.selected)
            self.partner.copy_(ranking.partner)

    def mixed_epochs(self, epochs: int) -> int:
        """Return in how many of a run's epochs images are mixed."""
        within = range(1, epochs + 1)
        return sum(each in within for each in self.explored_epochs) if self.mixed_rows else 0

    def explore(self, batch: AnyBatch, partners_of: Callable[[Batch], Batch]) -> Explored[AnyBatch]:
        """Mix a batch's uncertain rows, and say which rows the agent learns from.

        A mixed row has one image: it stands in the strong view too, which otherwise would show an
        instance that the row's target is not of.

        Args:
            batch: as the data gave it.
            partners_of: returns the partners of a batch, row by row; any row where there is none.
        """
        if not self.active:
            return Explored(batch, learn_from=None, mixed=None)
        learn_from = self.selected[batch.index]
        if not self.mixed_rows:
            return Explored(batch, learn_from=learn_from, mixed=None)
        assert isinstance(batch, Batch), "images of sizes of their own are not mixed"
        mixed = self.partner[batch.index] != NO_PARTNER
        seen = mix(
            batch,
            partners_of(batch),
            mixed,
            weight=self.mix_weight,
            num_classes=self.num_classes,
        )
        if batch.strong is not None:
            strong = torch.where(mixed[:, None, None, None], seen.image, batch.strong)
            seen = replace(seen, strong=strong)
        return Explored(seen, learn_from=learn_from, mixed=mixed)

    def observe(
        self,
        explored: Explored[Any],
        student_logits: Float[Tensor, "rows classes"],
        part_of: Int[Tensor, " rows"] | None = None,
    ) -> None:
        """Record the entropies of a training pass.

        Args:
            explored: the batch.
            student_logits: the student's on each image; or on its parts.
            part_of: the image of the batch that each part belongs to, see `EntropyRecord`.
        """
        if part_of is None:
            self.record.update(explored.batch.index, student_logits, keep=explored.mixed)
        else:
            self.record.update_by_parts(explored.batch.index, student_logits, part_of)
