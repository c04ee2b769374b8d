"""The processes that train one student together: who one is, and what all of them know.

A process alone is rank 0 of 1, and everything here gives back what it got. Where there are several,
each calls every function, in the same order: they meet in it.
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
class Part:
    """Which of several ranks one is."""

    rank: int = 0
    """From 0."""
    world: int = 1
    """How many there are."""

    def of(self, rows: Tensor) -> Tensor:
        """Return one's own rows of what all ranks share: as many for each, in their order.

        What is left over after the last whole multiple of `world` is nobody's.
        """
        size = len(rows) // self.world
        return rows[self.rank * size : (self.rank + 1) * size]


def here() -> Part:
    """Return which rank this process is."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Part()
    return Part(distributed.get_rank(), distributed.get_world_size())


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all ranks one after the other. Each gives the same shape and type."""
    part = here()
    if part.world == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(part.world)]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def summed(values: Tensor) -> Tensor:
    """Return the sum over all ranks, of each element."""
    if here().world == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total


def greatest(value: Tensor) -> Tensor:
    """Return the greatest over all ranks, of each element."""
    if here().world == 1:
        return value
    most = value.clone()
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return most


def from_first(values: Tensor) -> Tensor:
    """Return what rank 0 gives. Each gives the same shape and type."""
    if here().world == 1:
        return values
    given = values.clone()
    distributed.broadcast(given, src=0)
    return given


def said(word: Any) -> list[Any]:
    """Return what each rank says, in the order of the ranks: anything that pickles, and small."""
    part = here()
    if part.world == 1:
        return [word]
    words: list[Any] = [None] * part.world
    distributed.all_gather_object(words, word)
    return words


def first_alone(act: Callable[[], _Result]) -> _Result:
    """Let rank 0 do what only one may, and tell the others what came of it.

    Raises:
        UserError: on every rank, if it was raised on rank 0.
    """
    if here().world == 1:
        return act()
    outcome: list[Any] = [None, None]
    if here().rank == 0:
        try:
            outcome[0] = act()
        except UserError as error:
            outcome[1] = str(error)
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def follow_first(module: nn.Module) -> None:
    """Give a module's buffers, such as batch norms' statistics, the values of rank 0."""
    if here().world > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def keep_apart(module: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Have DistributedDataParallel leave parameters and buffers of a module to the ranks."""
    apart = {id(each) for each in tensors}
    parameters = module.named_parameters(remove_duplicate=False)
    buffers = module.named_buffers(remove_duplicate=False)
    named = [name for name, each in (*parameters, *buffers) if id(each) in apart]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, named)  # pyright: ignore[reportPrivateUsage]


def require_alike(module: nn.Module, name: str) -> None:
    """Find out whether a module is the same on every rank, to the bit.

    Raises:
        RanksDifferError: if it is not, naming the first rank that differs from rank 0.
    """
    hashes = said(fingerprint(module))
    for rank, each in enumerate(hashes):
        if each != hashes[0]:
            raise RanksDifferError(f"{name} of rank {rank} differs from that of rank 0")


class RanksDifferError(Exception):
    """Ranks hold something differently that they must hold alike: a bug, not a user's mistake."""


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


def tells() -> bool:
    """Whether this process is the one that speaks to the user: rank 0, known before they meet."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def first_to_tell() -> bool:
    """Whether no rank has told the user of a failure before, so that one message is enough."""
    if not (distributed.is_available() and distributed.is_initialized()):
        # What fails before the ranks have met may be one machine's: its first rank speaks.
        return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
    try:
        store = distributed.distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
        return store.add("rlkd/told", 1) == 1
    except RuntimeError:  # the rank that kept the store is gone
        return True
