"""Random changes of nested data, such as a checkpoint, a result or a configuration holds."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Place = tuple[Any, Any]
"""What holds a value, and under which key or index."""


def places(held: Any) -> Iterator[Place]:
    """Yield where each value of nested dictionaries and lists is, and what it is called there."""
    keys = held if isinstance(held, dict) else range(len(held)) if isinstance(held, list) else ()
    for key in list(keys):
        yield held, key
        yield from places(held[key])


def mutated(held: Any, draw: random.Random) -> str:
    """Change one value in place; return what was done, and to what."""
    holder, key = draw.choice(list(places(held)))
    name = draw.choice(list(CHANGES))
    before = holder[key]
    after = CHANGES[name](before, draw)
    if after is _GONE:
        del holder[key]
    else:
        holder[key] = after
    return f"{name} of {key} ({type(before).__name__})"


def _retyped(value: Any, draw: random.Random) -> Any:
    others = ("text", 3, 2.5, None, True, [], {}, [1], {"a": 1}, torch.ones(3), float("nan"))
    return draw.choice([each for each in others if type(each) is not type(value)])


def _reshaped(value: Any, draw: random.Random) -> Any:
    if isinstance(value, Tensor):
        return draw.choice([value.flatten()[:-1], value[None], value.reshape(-1, 1)[:0]]).clone()
    return value[:-1] if isinstance(value, list | str) else [value]


def _not_finite(value: Any, draw: random.Random) -> Any:
    number = draw.choice([float("nan"), float("inf"), -float("inf")])
    if not isinstance(value, Tensor):
        return number
    if not value.is_floating_point() or not value.numel():
        return value.double() * number
    changed = value.clone()
    changed.view(-1)[draw.randrange(changed.numel())] = number
    return changed


def _huge(value: Any, draw: random.Random) -> Any:
    if isinstance(value, Tensor):
        return torch.full_like(value, 2**30 if value.dtype == torch.int64 else 100)
    return draw.choice([10**30, 2**62, -(2**62), 1e300, "x" * 10_000, "1" * 5000])


def _negative(value: Any, draw: random.Random) -> Any:
    if isinstance(value, Tensor):
        return value if value.dtype in (torch.bool, torch.uint8) else -value - 1
    return -value - 1 if isinstance(value, int | float) else -1


def _exchanged_kind(value: Any, draw: random.Random) -> Any:
    if not isinstance(value, Tensor):
        return str(value)
    kinds = [torch.float64, torch.int32, torch.bool, torch.complex64, torch.float16]
    return value.to(draw.choice([each for each in kinds if each != value.dtype]))


_GONE = object()
CHANGES: dict[str, Callable[[Any, random.Random], Any]] = {
    "drop": lambda value, draw: _GONE,
    "retype": _retyped,
    "reshape": _reshaped,
    "not finite": _not_finite,
    "huge": _huge,
    "negative": _negative,
    "another kind": _exchanged_kind,
}
"""What is done to a value; each returns the new one."""
