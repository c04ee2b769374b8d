"""The predictive entropy of each instance, whose ranking selects those worth exploring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlkd import arguments, distributed
from rlkd.checks import MASKED
from rlkd.errors import InputError, UserError

NO_PARTNER = -1


def predictive_entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    r"""Return H(y | x) = -sum_c p_c log p_c in nats, p = softmax(logits).

    From 0 (certain) to log k (knows nothing of k classes); a probability of 0 contributes 0.
    """
    with torch.autocast(logits.device.type, enabled=False):  # which would round the products
        log_p = torch.log_softmax(logits.float(), dim=1).clamp_min(MASKED)
        return -torch.linalg.vecdot(log_p.exp(), log_p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """The bands of ranks, as fractions of the training set in descending entropy.

    Args:
        selected: the first part, S_e, from which the agent learns.
        mixed: the part of S_e that is mixed, to lower the risk of over-fitting; (0, 0) for none.
        partners: the part that the mixed ones are mixed with, rank by rank; as wide as `mixed`,
            and of no account where that is empty.

    Raises:
        UserError: if a fraction is outside [0, 1], a band runs backwards, the mixed band is not
            part of S_e, the partners overlap S_e, or the two bands differ in width.
    """

    selected: float = 0.2
    mixed: tuple[float, float] = (0.1, 0.2)
    partners: tuple[float, float] = (0.4, 0.5)

    def __post_init__(self) -> None:
        mixed, partners = self.mixed, self.partners
        arguments.number("exploration.selected", self.selected, above=0, most=1)
        for name, band in (("mixed", mixed), ("partners", partners)):
            given: Any = band
            if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
                raise InputError(f"exploration.{name} is no band: give two fractions, [0.1, 0.2]")
            for each in band:
                arguments.number(f"exploration.{name}", each)
        faults = (
            (not 0 <= mixed[0] <= mixed[1] <= 1, "mixed must be two rising fractions in [0, 1]"),
            (not 0 <= partners[0] <= partners[1] <= 1, "partners must be two rising fractions"),
            (mixed[1] > self.selected, "the mixed band must be part of the selected one"),
            (partners[0] < self.selected, "the partners must not overlap the selected band"),
            (
                mixed[1] > mixed[0]
                and abs((mixed[1] - mixed[0]) - (partners[1] - partners[0])) > 1e-6,
                "mixed and partners must be equally wide",
            ),
        )
        for fault, remedy in faults:
            if fault:
                raise UserError(
                    f"exploration bands selected={self.selected} mixed={list(mixed)} "
                    f"partners={list(partners)}: {remedy}"
                )

    def width(self, instances: int) -> int:
        """Return how many of a training set's instances are mixed, each with a partner."""
        first, last = (round(each * instances) for each in self.mixed)
        return min(last - first, instances - round(self.partners[0] * instances))


@dataclass(frozen=True, slots=True)
class Ranking:
    """The bands of one epoch."""

    selected: Bool[Tensor, " instances"]
    """True for an instance in S_e."""
    partner: Int[Tensor, " instances"]
    """The instance that each is mixed with; -1 for none."""


def rank(entropy: Float[Tensor, " instances"], bands: Bands, *, seed: int = 0) -> Ranking:
    """Rank all instances by entropy, descending, and cut the bands.

    The j-th instance of the mixed band gets the j-th of the partners' band.

    Args:
        entropy: of each instance, 0 or above; NaN for one that has none. These come last, in an
            order of chance: that of the data is by class where it comes from folders.
        bands: which ranks play which part.
        seed: of that order.
    """
    count = len(entropy)
    chance = torch.rand(count, generator=torch.Generator().manual_seed(seed)).to(entropy.device)
    known = torch.where(entropy.isnan(), -1 - chance, entropy)
    order = torch.argsort(known, descending=True, stable=True)

    def cut(fraction: float) -> int:
        return round(fraction * count)

    selected = torch.zeros_like(entropy, dtype=torch.bool)
    selected[order[: cut(bands.selected)]] = True
    first, partner_first, width = cut(bands.mixed[0]), cut(bands.partners[0]), bands.width(count)
    partner = torch.full_like(order, NO_PARTNER)
    partner[order[first : first + width]] = order[partner_first : partner_first + width]
    return Ranking(selected=selected, partner=partner)


class EntropyRecord(nn.Module):
    """The latest predictive entropy of every training instance, by its row; NaN for none yet.

    Args:
        instances: size of the training set.
    """

    entropy: Tensor

    def __init__(self, instances: int) -> None:
        super().__init__()
        arguments.count("instances", instances)
        self.register_buffer("entropy", torch.full((instances,), torch.nan))

    @torch.no_grad()
    def update(
        self,
        index: Int[Tensor, " batch"],
        student_logits: Float[Tensor, "batch classes"],
        keep: Bool[Tensor, " batch"] | None = None,
    ) -> None:
        """Record the entropies of a forward pass that training makes anyway, on all ranks.

        Args:
            index: rows of the training set.
            student_logits: the student's logits on them.
            keep: rows whose record stays as it is, because their image was mixed. So does that of
                a row whose logits are not finite.
        """
        entropy = predictive_entropy(student_logits)
        self._record(index, entropy if keep is None else entropy.masked_fill(keep, torch.nan))

    @torch.no_grad()
    def update_by_parts(
        self,
        index: Int[Tensor, " batch"],
        student_logits: Float[Tensor, "parts classes"],
        part_of: Int[Tensor, " parts"],
    ) -> None:
        """Record the mean entropy of the parts of each instance, on all ranks.

        A part is a region of an image, say.

        Args:
            index: rows of the training set, each once; as many on every rank.
            student_logits: the student's logits on all parts.
            part_of: the row of `index` that each part belongs to. An instance without parts, or
                without one whose logits are finite, keeps its record.
        """
        entropy = predictive_entropy(student_logits)
        usable = (~entropy.isnan()).to(entropy)
        entropy = entropy.nan_to_num(0.0)
        total = torch.zeros(len(index), device=entropy.device).index_add_(0, part_of, entropy)
        count = torch.zeros_like(total).index_add_(0, part_of, usable)
        self._record(index, total / count)

    def _record(self, index: Int[Tensor, " batch"], entropy: Float[Tensor, " batch"]) -> None:
        """Record what all ranks found; where that is NaN, the record stays as it is."""
        if distributed.this_rank().world_size > 1:
            # float64 holds every row up to 2^53, and one message costs less than two.
            joined = distributed.gather_rows(torch.stack([index.double(), entropy.double()], dim=1))
            index, entropy = joined[:, 0].long(), joined[:, 1].float()
        self.entropy[index] = torch.where(entropy.isnan(), self.entropy[index], entropy)
