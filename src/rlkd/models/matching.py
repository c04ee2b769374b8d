"""Finds the weights of a network in a file by matching names and shapes."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rlkd.errors import UserError

_USUAL = ("", "model", "state_dict")
"""Holders that need no mention."""
_WRAPPERS = frozenset({"module", "_orig_mod"})
"""Parts of prefixes that need none either."""
_AVERAGES = frozenset({"ema", "swa", "averaged"})
_DEPTH = 3
_LONGEST = 1000
"""Letters of a name."""
_PLACES = 16
"""As many that match equally well are looked at; a file of more is none of one network."""
COUNTER = "num_batches_tracked"
"""Of a batch norm; files older than torch 0.4.1 lack it."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Place:
    """Where in a file a network's weights are, and what they are called there."""

    holder: str = ""
    """The keys that lead to them, joined by dots; empty for the file itself."""
    stripped: str = ""
    """The prefix of their names that the network's do not have."""
    added: str = ""
    """The prefix of the network's names that theirs do not have."""

    @property
    def averaged(self) -> bool:
        """True for a running average of the weights, by name."""
        return not _AVERAGES.isdisjoint(re.split(r"[._]", f"{self.holder}.{self.stripped}"))

    @property
    def usual(self) -> bool:
        """True if they are where most files have them."""
        parts = self.stripped.rstrip(".").split(".")
        wrapped = not self.stripped or _WRAPPERS.issuperset(parts)
        return self.holder in _USUAL and wrapped and not self.added

    def __str__(self) -> str:
        said = [f"under '{self.holder}'"] if self.holder else []
        said += [f"without the prefix '{self.stripped}'"] if self.stripped else []
        said += [f"with the prefix '{self.added}'"] if self.added else []
        return ", ".join(said) or "at its top"

    def of(self, weights: Mapping[str, Tensor]) -> Weights:
        """Return the holder's weights by the network's names; those beside the prefix left out."""
        return {
            self.added + name.removeprefix(self.stripped): tensor
            for name, tensor in weights.items()
            if name.startswith(self.stripped)
        }


@dataclass(frozen=True)
class Found:
    """The weights of a file that match a network best."""

    weights: Weights
    place: Place
    beside: list[Place] = field(default_factory=list[Place])
    """Where the file has others that match as well and were not taken."""

    @property
    def note(self) -> str | None:
        """A note to the user on where they were found; None where most files have them."""
        if self.beside:
            others = " and ".join(map(str, self.beside))
            which = "an average of them" if self.beside[0].averaged else "others"
            return f"took the weights {self.place}; {others} it has {which}, to be saved alone"
        return None if self.place.usual else f"took the weights {self.place}"


def find_weights(path: Path, payload: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> Found:
    """Find the weights of a file that match a network's names and shapes best.

    Plain weights come before their running average.

    Args:
        path: of the file, for messages.
        payload: what it holds.
        wanted: the network's state.

    Raises:
        UserError: if it holds no weights, or different ones that match equally well.
    """
    held = dict(_holders(payload))
    if not held:
        keys = ", ".join(map(str, payload)) or "nothing"
        raise UserError(
            f"{path}: holds no weights, but {keys}; give a state dict, alone or under 'model' or "
            "'state_dict'"
        )
    scores: dict[Place, tuple[int, int]] = {}
    prefixes = _common_prefixes(wanted)
    depth = max((name.count(".") for name in wanted), default=0)
    for holder, weights in held.items():
        scores |= _scores(holder, weights, wanted, prefixes, depth)
    best = max(scores.values())
    equal = [place for place, score in scores.items() if score == best][:_PLACES]
    if best == (0, 0):
        equal = [Place(max(held, key=lambda holder: len(held[holder])))]
    plain = [each for each in equal if not each.averaged] or equal
    # A deeper network of the same kind has all the entries too, and others.
    if whole := [each for each in plain if not _left_over(each, plain, held[each.holder], wanted)]:
        equal = [each for each in equal if each in whole or each not in plain]
        plain = whole
    taken = min(plain, key=_simplicity)
    weights = taken.of(held[taken.holder])
    # A few names in common are chance.
    equal = equal if 2 * best[0] > len(set(wanted) - _counters(wanted)) else []
    others = [each for each in equal if not _same(each.of(held[each.holder]), weights)]
    if rivals := [each for each in others if each in plain]:
        both = " and ".join(map(str, (taken, *rivals)))
        raise UserError(
            f"{path}: several weights fit this network, {both}: save those that are meant alone"
        )
    return Found(weights, taken, others)


def named_tensors(holder: object) -> Weights:
    """Return the entries of a dictionary that are tensors with names of a sensible length."""
    if not isinstance(holder, Mapping):
        return {}
    return {
        name: tensor
        for name, tensor in cast(Mapping[Any, Any], holder).items()
        if isinstance(name, str) and len(name) <= _LONGEST and isinstance(tensor, Tensor)
    }


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is strided, on the CPU, and has a number of its own for each entry.

    One that is sparse, quantised, nested, on `meta` or of a subclass is none; nor is a small one
    that a stride of 0 makes as large as one likes.
    """
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _holders(
    payload: Mapping[Any, Any], path: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[Any]:
    """Yield what leads to each dictionary that holds named tensors, and these, each once."""
    seen = set() if seen is None else seen
    seen.add(id(payload))
    if weights := named_tensors(payload):
        yield path, weights
    for key, value in payload.items():
        fresh = isinstance(value, Mapping) and id(cast(object, value)) not in seen
        if isinstance(key, str) and fresh and depth < _DEPTH:
            inner = f"{path}.{key}".lstrip(".")
            yield from _holders(cast(Mapping[Any, Any], value), inner, depth + 1, seen)


def _scores(
    holder: str,
    weights: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    prefixes: list[str],
    depth: int,
) -> dict[Place, tuple[int, int]]:
    """Return for each pair of prefixes how many entries match: in name and shape, in name.

    Args:
        holder: what leads to the weights.
        weights: of the file.
        wanted: the network's state.
        prefixes: those that all of the network's names have.
        depth: the most dots that one of the network's names has.
    """
    scores = {Place(holder): (0, 0)}
    for added in prefixes:
        exact, named = Counter[str](), Counter[str]()
        for name in weights.keys() - _counters(weights):
            tensor = weights[name]
            for start in _starts(name, depth):
                other = wanted.get(added + name[start:])
                if other is not None:
                    named[name[:start]] += 1
                    exact[name[:start]] += not tensor.is_nested and other.shape == tensor.shape
        scores |= {Place(holder, each, added): (exact[each], named[each]) for each in named}
    return scores


def _starts(name: str, depth: int) -> Iterator[int]:
    """Yield where the ends of a name begin that have at most so many dots, the shortest first."""
    dot = len(name)
    for _ in range(depth + 1):
        dot = name.rfind(".", 0, dot)
        yield dot + 1
        if dot < 0:
            return


def _counters(names: Iterable[str]) -> set[str]:
    """Return the batch counters among names, which are alike in all networks."""
    return {each for each in names if each.endswith(COUNTER)}


def _common_prefixes(wanted: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes, "" first, that all of a network's names have."""
    first = next(iter(wanted), "")
    prefixes = ["", *(first[: dot.end()] for dot in re.finditer(r"\.", first))]
    return [each for each in prefixes if all(name.startswith(each) for name in wanted)]


def _left_over(
    place: Place, places: list[Place], weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> set[str]:
    """Return a place's entries that are neither the network's nor another place's."""
    others = tuple(
        each.stripped
        for each in places
        if each.holder == place.holder and len(each.stripped) > len(place.stripped)
    )
    names = place.of({k: v for k, v in weights.items() if not k.startswith(others)}).keys()
    return names - wanted.keys() - _counters(names)


def _simplicity(place: Place) -> tuple[bool, int]:
    return not place.usual, len(place.stripped) + len(place.added)


def _same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(
        each is other[name]
        or (
            each.shape == other[name].shape
            and is_plain(each)
            and is_plain(other[name])
            and bool((each == other[name]).all())
        )
        for name, each in one.items()
    )
