"""Scoring networks: whole sets for a result, single batches for a reward."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from rlkd import ranks
from rlkd.errors import UserError
from rlkd.models.eval_mode import evaluating, observing_nothing
from rlkd.reporting import Scores
from rlkd.temperature import TemperatureSource
from rlkd.types import Batch

_Probe = TypeVar("_Probe")


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[Batch], *, num_classes: int) -> Scores:
    """Score a network in evaluation mode, which it leaves as it found it.

    Args:
        network: returns logits.
        batches: the set; every instance counts once. Where there are several ranks, this one's
            part of it; they score together.
        num_classes: of the data.

    Returns:
        Top-1 and top-5 accuracy as fractions (top-k with fewer than 5 classes), and the mean
        cross-entropy in nats.

    Raises:
        UserError: on every rank, if none has an instance.
    """
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    totals = torch.zeros(4, dtype=torch.float64, device=device)
    with evaluating(network):
        for batch in batches:
            if not len(batch.target):  # of images none of which can be decoded
                continue
            logits = network(batch.image).float()
            place = _places(logits, batch.target)
            loss = F.cross_entropy(logits, batch.target, reduction="sum")
            right = [(place < most).sum() for most in (1, min(5, num_classes))]
            totals += torch.stack([*right, loss, torch.ones_like(place).sum()])
    top1, top5, loss, count = ranks.summed(totals).tolist()
    if not count:
        raise UserError(
            "there is nothing to score: no image of the set can be decoded, fix the data"
        )
    return Scores(top1=top1 / count, top5=top5 / count, loss=loss / count)


def _places(
    logits: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Return how many classes come before the target's: of equal ones, those of lower number.

    In a row with NaN or +inf, whose greatest value says nothing, all do.
    """
    own, number = target[:, None], torch.arange(logits.shape[1], device=logits.device)
    value = logits.gather(1, own)
    before = (logits > value) | ((logits == value) & (number < own))
    bad = (logits.isnan() | (logits == torch.inf)).any(dim=1)
    return before.sum(dim=1).masked_fill(bad, logits.shape[1])


@contextmanager
def frozen_statistics(network: nn.Module) -> Generator[None]:
    """Let batch norms use the batch's statistics and keep running ones and ranges as they are."""
    norms = [each for each in network.modules() if isinstance(each, _BatchNorm)]
    tracked = [each.track_running_stats for each in norms]
    for each in norms:
        each.track_running_stats = False
    try:
        with observing_nothing(network):
            yield
    finally:
        for each, was in zip(norms, tracked, strict=True):
            each.track_running_stats = was


@contextmanager
def scoring(network: nn.Module) -> Generator[None]:
    """Call a network for a score: without gradient, with the weights and statistics of this moment.

    In training mode batch norms use the batch's own statistics: the running ones lag behind the
    weights and depend on which batches came last, which is noise to a reward.
    """
    # Autocast keeps the casts of weights it has seen, and would score those of before the update;
    # those made here carry no gradient, and would take it from a later pass.
    torch.clear_autocast_cache()
    with torch.no_grad(), frozen_statistics(network):
        yield
    torch.clear_autocast_cache()


def probe_for(source: TemperatureSource | None, probe: _Probe | None) -> _Probe | None:
    """Return the probe if the source is measured on one, so that before and after are of one set.

    Args:
        source: sets the temperatures; None where the student trains alone.
        probe: images held out of training, in whatever form the loop has them.

    Raises:
        UserError: if the source needs a probe and there is none.
    """
    if source is None or not source.needs_probe:
        return None
    if probe is None:
        raise UserError(
            f"{type(source).__name__} measures its reward on images held out of training: give "
            "probe=(images, targets), or choose reward_source=same_batch"
        )
    return probe


def scored_logits(
    network: nn.Module, image: Float[Tensor, "batch c h w"]
) -> Float[Tensor, "batch classes"]:
    """Return the logits that a reward is measured on, see `scoring`."""
    with scoring(network):
        return network(image).float()
