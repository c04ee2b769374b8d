"""Batches of decoded, augmented images, made in whichever process is free."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rlkd.data.images import UndecodableError
from rlkd.data.loaders.stream_set import StreamSet
from rlkd.data.seeding import generator_of
from rlkd.data.transforms.randaugment import StrongAugmentation, cut_out, rand_augment
from rlkd.errors import UserError

_VIEW, _PARTNER, _STRONG, FIXED = 0, 1, 2, 3
"""Streams of random numbers; those of an image depend on seed, epoch, row and stream alone."""
_NEXT = 100_000
"""As many images in a row are tried in place of one that cannot be decoded."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a batch is to be made of."""

    epoch: int
    rows: list[int]
    partners: list[int]
    """The row that each is mixed with, -1 for none; empty where none has one."""
    views: list[int] = field(default_factory=list[int])
    """Which of its views each row is shown in; empty where each epoch draws new ones."""


_Made = TypeVar("_Made")


class Made(NamedTuple):
    """A batch before it is normalised; plain tensors, which travel between processes."""

    row: Int64[Tensor, " batch"]
    """Of each image in its set."""
    image: UInt8[Tensor, "batch channels height width"]
    strong: UInt8[Tensor, "batch channels height width"] | None
    mixed: Int64[Tensor, " partners"]
    """Which images of the batch have a partner."""
    partner_row: Int64[Tensor, " partners"]
    partner: UInt8[Tensor, "partners channels height width"]
    unreadable: list[str]
    """Where the images are that could not be decoded."""
    view: Int64[Tensor, " batch"] | None = None
    """Of each image, where their number is fixed."""


class Maker(Dataset[Made | UserError]):
    """Makes what is requested; what is random follows from seed, epoch and row, in any process.

    Args:
        images: the set.
        seed: of the augmentation.
        augment: whether images are cropped and mirrored at random, and one that cannot be decoded
            is replaced by the next that can; otherwise all are as in evaluation, and it is left
            out.
        strong_view: whether a second, strongly augmented view is made.
    """

    def __init__(
        self, images: StreamSet, *, seed: int, augment: bool, strong_view: bool = False
    ) -> None:
        self.images, self.seed = images, seed
        self.augment, self.strong_view = augment, strong_view

    def __getitem__(self, request: Request) -> Made | UserError:
        try:
            return self._make(request)
        except UserError as error:  # raised in a worker, it would reach the user as a traceback
            return error

    def _make(self, request: Request) -> Made:
        unreadable: list[str] = []
        rows: list[int] = []
        views: list[Tensor] = []
        strong: list[Tensor] = []
        changes: list[StrongAugmentation] = []
        numbers: list[int] = []
        for at, asked in enumerate(request.rows):
            row, image = self._read(asked, unreadable)
            if image is None:
                continue
            rows.append(row)
            key = (self.seed, request.epoch, asked)
            drawn = generator_of(*key, _VIEW)
            if request.views:
                # The same in every run, whatever its seed and whichever images it holds out.
                numbers.append(request.views[at])
                drawn = generator_of(numbers[-1], int(self.images.row[row]), FIXED)
            views.append(self._view(image, drawn))
            if self.strong_view:
                generator = generator_of(*key, _STRONG)
                strong.append(self._view(image, generator))
                changes.append(
                    StrongAugmentation.draw(1, crop_padding=0, flip=False, generator=generator)
                )
        mixed = [at for at, row in enumerate(request.partners) if row >= 0]
        partner_rows: list[int] = []
        partners: list[Tensor] = []
        for at in mixed:
            row, image = self._read(request.partners[at], unreadable)
            assert image is not None
            partner_rows.append(row)
            key = (self.seed, request.epoch, request.rows[at])
            partners.append(self._view(image, generator_of(*key, _PARTNER)))
        return Made(
            row=torch.tensor(rows, dtype=torch.int64),
            image=self._stacked(views),
            strong=_changed(self._stacked(strong), changes) if strong else None,
            mixed=torch.tensor(mixed, dtype=torch.int64),
            partner_row=torch.tensor(partner_rows, dtype=torch.int64),
            partner=self._stacked(partners),
            unreadable=unreadable,
            view=torch.tensor(numbers, dtype=torch.int64) if request.views else None,
        )

    def _read(self, row: int, unreadable: list[str]) -> tuple[int, Tensor | None]:
        """Return an image, or in training the next that can be decoded, with its row."""
        count, policy = len(self.images), self.images.reading.unreadable
        for further in range(min(count, _NEXT)):
            found = (row + further) % count
            try:
                return found, self.images.read(found)
            except UndecodableError as error:
                if not policy.skips:
                    raise UserError(f"{error}{policy.remedy}") from error
                unreadable.append(self.images.place(found))
            if not self.augment:
                return found, None
        raise UserError(
            f"{self.images.place(row)} cannot be decoded, nor any of the {min(count, _NEXT)} "
            "images from it on: fix the data"
        )

    def _view(self, image: Tensor, generator: torch.Generator) -> Tensor:
        views = self.images.views
        if not self.augment:
            return views.evaluated(image)
        height, width = image.shape[1:]
        return views.cut(image, views.draw(height, width, generator))

    def _stacked(self, images: Sequence[Tensor]) -> UInt8[Tensor, "images channels height width"]:
        channels, height, width = self.images.shape
        # Decoders give a pixel's colours one after the other: this way each image is one copy.
        stacked = torch.empty(len(images), height, width, channels, dtype=torch.uint8)
        stacked = stacked.permute(0, 3, 1, 2)
        for place, image in zip(stacked, images, strict=True):
            place.copy_(image)
        return stacked


def _changed(image: Tensor, changes: Sequence[StrongAugmentation]) -> Tensor:
    """Put each image through its operations and its cutout."""
    changed = rand_augment(
        image,
        torch.cat([each.operation for each in changes]),
        torch.cat([each.strength for each in changes]),
    )
    return cut_out(changed, torch.cat([each.cutout for each in changes]))


class Requests:
    """The requests of an epoch, each drawn up when a process is about to be free.

    Args:
        make: draws up one.
        positions: of the batches.
    """

    def __init__(self, make: Callable[[int], Request], positions: range) -> None:
        self._make, self._positions = make, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[Request]:
        return map(self._make, self._positions)


def made(
    maker: Dataset[_Made | UserError],
    requests: Sequence[Any] | Requests,
    *,
    workers: int,
    prefetch: int = 2,
    pinned: bool = False,
) -> Iterator[_Made]:
    """Yield what a maker makes of each request, in order.

    Args:
        maker: makes a batch of a request, or returns the error that is to be raised.
        requests: one a batch.
        workers: processes that make batches, one a processor at most; 0 for none but this one.
        prefetch: batches that each of them makes ahead.
        pinned: whether they come in pinned memory, from which a GPU copies by itself.

    Raises:
        UserError: the maker's, or if such a process ends, as for want of memory.
    """
    workers = min(workers, len(requests), cores())
    batches: Iterable[_Made | UserError] = map(maker.__getitem__, requests)
    if workers:
        batches = DataLoader(
            maker,
            batch_size=None,
            sampler=cast("Any", requests),
            num_workers=workers,
            prefetch_factor=prefetch,
            collate_fn=cast("Any", _as_it_is),
            pin_memory=pinned,
            # Without one of its own it would draw from the global generator.
            generator=torch.Generator(),
        )
    try:
        for each in batches:
            if isinstance(each, UserError):
                raise each
            yield cast("_Made", each)
    except RuntimeError as error:
        raise dead_worker(error) or error from error


def dead_worker(error: BaseException) -> UserError | None:
    """Return a UserError for torch's report that a worker died; None for any other error.

    It may come while a batch is waited for, or at any other moment of the main thread.
    """
    if not isinstance(error, RuntimeError) or "DataLoader worker" not in str(error):
        return None
    return UserError(
        "a process that decodes images ended: give it more (shared) memory, such as by docker "
        "--shm-size, or lower data.workers or data.prefetch"
    )


def cores() -> int:
    """Return how many processors this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return os.cpu_count() or 1 if allowed is None else len(allowed(0))


def _as_it_is(batch: Any) -> Any:
    return batch
