"""Deterministic subsets, each class in proportion."""

from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from rlkd.errors import UserError


@runtime_checkable
class _Set(Protocol):
    def __len__(self) -> int: ...

    def select(self, rows: Int64[Tensor, " rows"]) -> Any: ...


@runtime_checkable
class _Labelled(_Set, Protocol):
    @property
    def target(self) -> Int64[Tensor, " n"]: ...


_Any = TypeVar("_Any", bound=_Set)
_Images = TypeVar("_Images", bound=_Labelled)


def choose_rows(
    target: Int64[Tensor, " n"], size: int, *, seed: int, stratified: bool = True
) -> Int64[Tensor, " size"]:
    """Choose rows at random, in ascending order, the same for the same targets, size and seed.

    Where stratified, each class gives its share of `size` rounded down or up, so that no share is
    off by one or more; classes that tie for a rounding up are drawn by lot.

    Args:
        target: class of each row, on the CPU.
        size: rows to choose, 0 to n.
        seed: of the choice.
        stratified: whether classes keep their proportions.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(target), generator=generator)
    if not stratified or size == 0:
        return order[:size].sort().values
    count = torch.bincount(target)
    quota = size * count // len(target)
    remainder = size * count % len(target)
    lot = torch.randperm(len(count), generator=generator)
    by_remainder = lot[remainder[lot].argsort(descending=True, stable=True)]
    quota[by_remainder[: size - int(quota.sum())]] += 1
    grouped = order[target[order].argsort(stable=True)]
    group = target[grouped]
    rank_in_class = torch.arange(len(target)) - (count.cumsum(0) - count)[group]
    return grouped[rank_in_class < quota[group]].sort().values


def hold_out(
    images: _Images, size: int, *, seed: int, stratified: bool = True
) -> tuple[_Images, _Images]:
    """Split off images, for validation or for the reward probe.

    Args:
        images: what to split.
        size: images to hold out, from 0 to one fewer than there are.
        seed: of the choice.
        stratified: whether both parts keep the classes' proportions.

    Returns:
        The images that are kept and those held out, both in their first order.

    Raises:
        UserError: if nothing would be kept, or the size is negative.
    """
    if not 0 <= size < len(images):
        raise UserError(
            f"cannot hold out {size} of {len(images)} images: give 0 to {len(images) - 1}"
        )
    held = choose_rows(images.target.cpu(), size, seed=seed, stratified=stratified)
    return take_out(images, held)


def take_out(images: _Any, held: Int64[Tensor, " rows"]) -> tuple[_Any, _Any]:
    """Split a set into all but some rows, and those."""
    kept = torch.ones(len(images), dtype=torch.bool)
    kept[held] = False
    return images.select(kept.nonzero().flatten()), images.select(held)


def check_limit(limit: int | None, count: int) -> None:
    """Refuse a limit that is no number of training images.

    Raises:
        UserError: if the limit is below 1 or above the number of images.
    """
    if limit is not None and not 1 <= limit <= count:
        raise UserError(
            f"data.limit={limit}: there are {count} training images, give 1 to {count}, or null"
        )


def limited(images: _Images, limit: int | None) -> _Images:
    """Return a stratified subset of `limit` images, always the same; all where it is None.

    Raises:
        UserError: if the limit is below 1 or above the number of images.
    """
    check_limit(limit, len(images))
    if limit is None:
        return images
    return images.select(choose_rows(images.target.cpu(), limit, seed=0))
