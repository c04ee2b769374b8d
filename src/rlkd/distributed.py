"""Collectives of the processes that train one student together.

A process alone is rank 0 of 1, and every function returns its own input. Of several, each must call
the same functions in the same order.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from rlkd.errors import UserError

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Rank:
    """The rank of a process, and how many there are."""

    rank: int = 0
    """From 0."""
    world_size: int = 1
    """Number of ranks."""

    def share_of(self, rows: Tensor) -> Tensor:
        """Return this rank's share of rows: as many for each rank, in their order.

        Rows after the last whole multiple of `world_size` are left out.
        """
        size = len(rows) // self.world_size
        return rows[self.rank * size : (self.rank + 1) * size]


def this_rank() -> Rank:
    """Return the rank of this process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Rank()
    return Rank(distributed.get_rank(), distributed.get_world_size())


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all ranks in their order. All must have the same shape and type."""
    part = this_rank()
    if part.world_size == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(part.world_size)]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over all ranks, of each element."""
    if this_rank().world_size == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total


def max_over_ranks(value: Tensor) -> Tensor:
    """Return the maximum over all ranks, of each element."""
    if this_rank().world_size == 1:
        return value
    most = value.clone()
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return most


def broadcast_rows(values: Tensor) -> Tensor:
    """Return the rows of rank 0. All must have the same shape and type."""
    if this_rank().world_size == 1:
        return values
    given = values.clone()
    distributed.broadcast(given, src=0)
    return given


def gather_objects(own: Any) -> list[Any]:
    """Return the objects of all ranks, in their order; each must be small and pickle."""
    part = this_rank()
    if part.world_size == 1:
        return [own]
    found: list[Any] = [None] * part.world_size
    distributed.all_gather_object(found, own)
    return found


def on_rank_zero(function: Callable[[], _Result]) -> _Result:
    """Call a function on rank 0 alone, and return its result on every rank.

    Raises:
        UserError: on every rank, if it was raised on rank 0.
    """
    if this_rank().world_size == 1:
        return function()
    outcome: list[Any] = [None, None]
    if this_rank().rank == 0:
        try:
            outcome[0] = function()
        except UserError as error:
            outcome[1] = str(error)
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def broadcast_buffers(module: nn.Module) -> None:
    """Copy a module's buffers, such as batch norms' statistics, from rank 0 to all."""
    if this_rank().world_size > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def exclude_from_ddp(module: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Exclude parameters and buffers of a module from DistributedDataParallel."""
    apart = {id(each) for each in tensors}
    parameters = module.named_parameters(remove_duplicate=False)
    buffers = module.named_buffers(remove_duplicate=False)
    named = [name for name, each in (*parameters, *buffers) if id(each) in apart]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, named)  # pyright: ignore[reportPrivateUsage]


def require_alike(module: nn.Module, name: str) -> None:
    """Require that a module is the same on every rank, to the bit.

    Raises:
        RanksDifferError: if it is not, naming the first rank that differs from rank 0.
    """
    hashes = gather_objects(fingerprint(module))
    for rank, each in enumerate(hashes):
        if each != hashes[0]:
            raise RanksDifferError(f"{name} of rank {rank} differs from that of rank 0")


class RanksDifferError(Exception):
    """Ranks differ in a state that must be the same: a bug, not a user's mistake."""


def fingerprint(module: nn.Module) -> str:
    """Return a hash of all that a module's checkpoint would hold, to the bit."""
    digest = hashlib.sha256()
    _hash_into(digest, module.state_dict())
    return digest.hexdigest()


def _hash_into(digest: Any, held: Any) -> None:
    if isinstance(held, Tensor):
        flat = held.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(flat.numpy().tobytes())
    elif isinstance(held, dict):
        for key, value in held.items():  # pyright: ignore[reportUnknownVariableType]
            digest.update(repr(key).encode())
            _hash_into(digest, value)
    elif isinstance(held, list | tuple):
        for value in held:  # pyright: ignore[reportUnknownVariableType]
            _hash_into(digest, value)
    else:
        digest.update(repr(held).encode())


def is_rank_zero() -> bool:
    """Return whether this is rank 0, which reports to the user; known before the ranks meet."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def is_first_to_report() -> bool:
    """Return whether no rank has reported a failure yet, so that only one message appears."""
    if not (distributed.is_available() and distributed.is_initialized()):
        # A failure before the ranks have met may be of one machine: its first rank reports it.
        return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
    try:
        store = distributed.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
        return store.add("rlkd/reported", 1) == 1
    except RuntimeError:  # the rank that kept the store is gone
        return True
