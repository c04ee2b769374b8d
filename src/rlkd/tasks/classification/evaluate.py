"""Scoring classifiers: accuracy and cross-entropy on a set."""

import math
from collections.abc import Iterable, Sequence

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
        return evaluate(network, batches, class_names=dataset.class_names)


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[Batch], *, class_names: Sequence[str]) -> Scores:
    """Score a network in evaluation mode, which it leaves as it found it.

    Args:
        network: returns logits.
        batches: the set; every instance counts once. Where there are several ranks, this one's
            part of it; they score together.
        class_names: of the data, in the order of the logits.

    Returns:
        Top-1 and top-5 accuracy as fractions, the mean cross-entropy in nats, and the top-1
        accuracy of each class, NaN of one without an instance. Top-5 accuracy is NaN with up to 5
        classes, of which it would say nothing.

    Raises:
        UserError: on every rank, if none has an instance.
    """
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    classes = len(class_names)
    totals = torch.zeros(2 + 2 * classes, dtype=torch.float64, device=device)
    within, loss, right, there = totals.split([1, 1, classes, classes])
    with evaluating(network):
        for batch in batches:
            if not len(batch.target):  # of images none of which can be decoded
                continue
            logits = network(batch.image).float()
            place = _places(logits, batch.target)
            within += (place < _TOP).sum()
            loss += F.cross_entropy(logits, batch.target, reduction="sum")
            right.index_add_(0, batch.target, (place == 0).double())
            there.index_add_(0, batch.target, torch.ones_like(place).double())
    top5, nats, *counts = distributed.sum_over_ranks(totals).tolist()
    hits, instances = counts[:classes], counts[classes:]
    count = sum(instances)
    if not count:
        raise UserError(
            "there is nothing to score: no image of the set can be decoded, fix the data"
        )
    return Scores(
        top1=sum(hits) / count,
        top5=top5 / count if classes > _TOP else math.nan,
        loss=nats / count,
        per_class={
            name: hit / of if of else math.nan
            for name, hit, of in zip(class_names, hits, instances, strict=True)
        },
    )


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
