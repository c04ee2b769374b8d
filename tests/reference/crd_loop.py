"""Contrastive representation distillation, one anchor and one negative at a time."""

import torch
from torch import Tensor


def crd_slowly(
    anchors: Tensor,
    bank: Tensor,
    index: list[int],
    negatives: list[list[int]],
    *,
    temperature: float,
    normalizer: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of one network's anchors against the other's bank, and Z.

    P = exp(v'b / temperature) / Z, h = P / (P + K / M); every anchor costs -log h of its positive
    and -log(1 - h) of each negative. Without a Z it is what makes the mean P of the batch 1 / M.
    """
    rows, scores = len(bank), []
    for anchor, own, others in zip(anchors, index, negatives, strict=True):
        scores.append([torch.exp((anchor * bank[j]).sum() / temperature) for j in (own, *others)])
    if normalizer is None:
        flat = torch.stack([score for row in scores for score in row])
        normalizer = (flat.mean() * rows).detach()
    noise = len(negatives[0]) / rows
    total = torch.zeros((), dtype=anchors.dtype)
    for positive, *others in scores:
        density = positive / normalizer
        total = total - torch.log(density / (density + noise))
        for other in others:
            density = other / normalizer
            total = total - torch.log(noise / (density + noise))
    return total / len(anchors), normalizer
