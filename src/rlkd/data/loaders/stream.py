"""A loader that decodes and augments images when they are needed, in processes of their own."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from rlkd.data.images import UndecodableError
from rlkd.data.loaders.loader import BatchLoader, Wanted
from rlkd.data.loaders.memory import ImageSet
from rlkd.data.loaders.stream_set import StreamSet
from rlkd.data.loaders.workers import FIXED, Made, Maker, Request, Requests, cores, made
from rlkd.data.seeding import generator_of
from rlkd.data.sources.unreadable import first_few
from rlkd.errors import UserError
from rlkd.types import Batch

_AT_ONCE, _MOST_THREADS = 16, 16


class StreamLoader(BatchLoader):
    """Batches of images that are decoded when they are needed.

    The draws of an image depend on the seed, the epoch and its row: batches are the same with any
    number of workers. The global random generators are left alone. Images are augmented where
    they are shuffled, and otherwise as in evaluation.

    An image that cannot be decoded stops the iteration, or is skipped, as the set's reading says:
    the next row that can be decoded stands in its place, so that all ranks keep equally many rows;
    an evaluation leaves it out, and one of several ranks may be left without a batch.

    Args:
        images: the images.
        **options: see `BatchLoader`.

    Raises:
        UserError: if an option is out of its range, or no batch is left.
    """

    def __init__(self, images: StreamSet, **options: Any) -> None:
        super().__init__(images, **options)
        self.images = images
        self._latest: list[tuple[Batch, Made]] = []

    def _batches(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        maker = Maker(
            self.images, seed=self.seed, augment=self.shuffle, strong_view=self.strong_view
        )
        order, epoch, partner = self._order(), self.epoch, self.partner
        views = self._drawn_views()

        def request(position: int) -> Request:
            rows = self.plan.rows(order, position)
            partners = [] if partner is None else partner[rows].tolist()
            shown = [] if views is None else views[rows].tolist()
            return Request(epoch, rows.tolist(), partners, shown)

        requests = Requests(request, range(start, len(self)))
        readable = _read(
            maker,
            requests,
            pinned=self.device.type == "cuda",
            may_be_empty=self.plan.part.world_size > 1,
        )
        for each in readable:
            batch = self._batch(each)
            self._latest = [*(self._latest[-1:] if self.peeks else ()), (batch, each)]
            yield batch

    @property
    def augmentation(self) -> str:
        """How images are varied, in words."""
        cut = self.images.views
        return (
            f"crops of {cut.smallest_area:g} of the area or more at {list(cut.size)}"
            + ", flips" * cut.flip
        )

    @property
    def views(self) -> int | None:
        """How many views of an image there are; None for no end of them."""
        return self.images.view_count

    def batches_of(self, wanted: Wanted) -> Iterator[Batch]:
        """Make views of images that are asked for by number."""

        def request(position: int) -> Request:
            rows, view = wanted[position]
            return Request(0, rows.tolist(), [], view.tolist())

        maker = Maker(self.images, seed=self.seed, augment=True)
        for each in _read(maker, Requests(request, range(len(wanted)))):
            yield self._batch(each)

    def partner_batch(self, batch: Batch) -> Batch:
        """Return the partner of each instance, cropped and flipped by a draw of its own.

        An instance itself stands where it has no partner. The draw depends on the seed, the epoch
        and the instance.

        Raises:
            ValueError: if no partners are set, or another batch was given last.
        """
        if self.partner is None:
            raise ValueError("no partners: call set_partners first")
        given = [each for each in self._latest if each[0].index is batch.index]
        if not given:
            raise ValueError("partners are those of the batch that was given last")
        seen, read = given[0]
        mixed = self._put(read.mixed)
        image, index = seen.image.clone(), seen.index.clone()
        image[mixed] = self._normalise(self._put(read.partner))
        index[mixed] = self._put(read.partner_row)
        target = seen.target.clone()
        target[mixed] = self._put(self.images.target[read.partner_row])
        return Batch(image=image, target=target, index=index, view=seen.view)

    def _drawn_views(self) -> Int64[Tensor, " n"] | None:
        """Return which of its views an epoch shows each row in; None where none is fixed."""
        if self.views is None or not self.shuffle:
            return None
        generator = generator_of(self.seed, self.epoch, FIXED)
        return torch.randint(self.views, (len(self.images),), generator=generator)

    def _order(self) -> Int64[Tensor, " n"]:
        if self.shuffle:
            return self.images.order(seed=self.seed, epoch=self.epoch)
        return torch.arange(len(self.images))

    def _batch(self, read: Made) -> Batch:
        return Batch(
            image=self._normalise(self._put(read.image)),
            target=self._put(self.images.target[read.row]),
            index=self._put(read.row),
            strong=None if read.strong is None else self._normalise(self._put(read.strong)),
            view=None if read.view is None else self._put(read.view),
        )

    def _put(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def in_memory(images: StreamSet) -> ImageSet:
    """Decode a set once, as in evaluation, in threads.

    Raises:
        UserError: if images cannot be decoded and none is to be skipped, naming the first few; or
            none can be.
    """
    image = torch.empty(len(images), *images.shape, dtype=torch.uint8)
    decoded, unreadable = torch.ones(len(images), dtype=torch.bool), images.reading.unreadable
    errors: dict[int, UndecodableError] = {}

    def decode(start: int) -> None:
        for row in range(start, min(start + _AT_ONCE, len(images))):
            try:
                image[row] = images.views.evaluated(images.read(row))
            except UndecodableError as error:
                errors[row], decoded[row] = error, False

    with ThreadPoolExecutor(min(_MOST_THREADS, cores())) as pool:
        deque(pool.map(decode, range(0, len(images), _AT_ONCE)), maxlen=0)
    if errors:
        places = [images.place(row) for row in sorted(errors)]
        if not unreadable.skips:
            if len(errors) == 1:
                raise UserError(f"{errors[min(errors)]}{unreadable.remedy}")
            named = first_few([errors[row].words for row in sorted(errors)])
            raise UserError(
                f"{len(errors)} image files cannot be decoded: {named}; replace or remove them"
                f"{unreadable.remedy}"
            )
        unreadable.add(places)
        if not decoded.any():
            raise _none_readable(images)
        image = image[decoded]
    return ImageSet(image, images.target[decoded], images.class_names)


def first_readable(images: ImageSet | StreamSet, count: int) -> Int64[Tensor, " rows"]:
    """Return the first rows that can be decoded, `count` where there are as many.

    Raises:
        UserError: if none can.
    """
    if isinstance(images, ImageSet) or not images.reading.unreadable.skips:
        return torch.arange(min(count, len(images)))
    here = replace(images, reading=replace(images.reading, workers=0))
    each_row = Requests(lambda row: Request(0, [row], []), range(len(images)))
    read = _read(Maker(here, seed=0, augment=False), each_row)
    return torch.cat([each.row for each in islice(read, count)])


def _read(
    maker: Maker, requests: Requests, *, pinned: bool = False, may_be_empty: bool = False
) -> Iterator[Made]:
    """Yield decoded batches, skip empty ones, and record unreadable images.

    Raises:
        UserError: if an image cannot be decoded and none is to be skipped; or nothing can be
            decoded, unless that may be.
    """
    images, empty = maker.images, True
    workers, prefetch = images.reading.workers, images.reading.prefetch
    for each in made(maker, requests, workers=workers, prefetch=prefetch, pinned=pinned):
        images.reading.unreadable.add(each.unreadable)
        if len(each.row):
            empty = False
            yield each
    if len(requests) and empty and not may_be_empty:
        raise _none_readable(images)


def _none_readable(images: StreamSet) -> UserError:
    return UserError(
        f"none of {len(images)} images can be decoded, the first is {images.place(0)}: fix the data"
    )
