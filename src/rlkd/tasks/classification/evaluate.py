"""Scoring classifiers: accuracy and cross-entropy on a set."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd import distributed
from rlkd.config.options import TrainerOptions
from rlkd.data import Images
from rlkd.data.dataset import Dataset
from rlkd.errors import UserError
from rlkd.models.eval_mode import evaluating
from rlkd.reporting import Scores
from rlkd.tasks.classification.data import plain_loader
from rlkd.types import Batch

_TOP = 5


def score(network: nn.Module, images: Images, dataset: Dataset, options: TrainerOptions) -> Scores:
    """Score a network on a held-out set, in the run's precision; several ranks share it out."""
    network = network.to(options.device)
    with options.autocast():
        batches = plain_loader(images, dataset, options, part=distributed.this_rank())
        return evaluate(network, batches, num_classes=dataset.num_classes)


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[Batch], *, num_classes: int) -> Scores:
    """Score a network in evaluation mode, which it leaves as it found it.

    Args:
        network: returns logits.
        batches: the set; every instance counts once. Where there are several ranks, this one's
            part of it; they score together.
        num_classes: of the data.

    Returns:
        Top-1 and top-5 accuracy as fractions, and the mean cross-entropy in nats. Top-5 accuracy
        is NaN with up to 5 classes, of which it would say nothing.

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
            right = [(place < most).sum() for most in (1, _TOP)]
            totals += torch.stack([*right, loss, torch.ones_like(place).sum()])
    top1, top5, loss, count = distributed.sum_over_ranks(totals).tolist()
    if not count:
        raise UserError(
            "there is nothing to score: no image of the set can be decoded, fix the data"
        )
    within = top5 / count if num_classes > _TOP else math.nan
    return Scores(top1=top1 / count, top5=within, loss=loss / count)


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
