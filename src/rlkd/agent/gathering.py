"""Gathers a batch from all ranks in one message."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlkd import distributed


class Seen(NamedTuple):
    """A batch as the agent sees it."""

    state: Float[Tensor, "batch features"]
    learn_from: Bool[Tensor, " batch"]
    """The rows that it may learn from."""
    tally: Float[Tensor, "2"]
    """The sum of the student's scores, and of how many instances."""
    bad_rows: Float[Tensor, ""]
    """Number of rows of logits that were not finite."""


def of_all_ranks(own: Seen) -> Seen:
    """Gather one batch from all ranks, its rows in the order of the ranks.

    Args:
        own: as many rows on every rank.
    """
    world = distributed.this_rank().world_size
    if world == 1:
        return own
    rows, width = len(own.state), own.state.shape[1] + 1
    message = own.state.new_ones(rows + 1, width)
    message[:rows, :-1] = own.state
    message[:rows, -1] = own.learn_from.to(message)
    message[rows, :2] = own.tally.to(message)
    message[rows, 2] = own.bad_rows.to(message)
    joined = distributed.gather_rows(message).view(world, rows + 1, width)
    instances = joined[:, :rows].reshape(-1, width)
    sums = joined[:, rows, :3].sum(dim=0)
    return Seen(instances[:, :-1], instances[:, -1] > 0, sums[:2], sums[2])


def nothing_scored(like: Tensor) -> Float[Tensor, "2"]:
    """Return the tally of no instance."""
    return torch.zeros(2, dtype=like.dtype, device=like.device)
