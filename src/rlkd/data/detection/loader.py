"""Batches of images with boxes, mirrored at random."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from rlkd import arguments
from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.loaders.batch_plan import ALONE, Plan
from rlkd.data.loaders.loader import check_start
from rlkd.data.loaders.workers import made
from rlkd.data.seeding import generator_of
from rlkd.distributed import Rank
from rlkd.errors import UserError
from rlkd.types import Boxes, DetectionBatch


@dataclass(frozen=True, slots=True)
class _Request:
    """What a batch is to be made of: all that is random about it is in here."""

    rows: list[int]
    flip: list[bool]


_Made = list[tuple[Tensor, Tensor, Tensor]]
"""Image, boxes and labels; plain tensors, which travel between processes and into pinned memory."""


class _Maker(Dataset[_Made | UserError]):
    """Makes what is requested; having no randomness of its own, it may do so in any process."""

    def __init__(self, images: CocoSet) -> None:
        self.images = images

    def __getitem__(self, request: _Request) -> _Made | UserError:
        try:
            return [self._make(*one) for one in zip(request.rows, request.flip, strict=True)]
        except UserError as error:  # raised in a worker, it would reach the user as a traceback
            return error

    def _make(self, row: int, flip: bool) -> tuple[Tensor, Tensor, Tensor]:
        image, boxes = self.images.image(row), self.images.boxes(row)
        if flip:
            image, boxes = mirrored(image, boxes)
        return image, boxes.box, boxes.label


class DetectionLoader:
    """Batches of images with boxes; batch k of epoch e depends on the seed, e and k alone.

    All that is random in an epoch is drawn at its start, for all rows at once: the batches are the
    same with any number of workers, and whatever was iterated before. The global random generators
    are left alone. The epoch moves on only by `set_epoch`.

    Args:
        images: the images.
        batch_size: images a batch, 1 or more; of all ranks and passes together where shuffled.
        shuffle: whether each epoch has an order of its own; otherwise rows come as they lie.
        seed: of the order and the augmentation.
        flip: whether images are mirrored left to right with probability one half.
        group_by_aspect: whether the images of a batch are all wide (or square) or all tall, which
            wastes less padding. What fills no batch of its kind comes in one or two batches at the
            end, so that there are as many batches as without groups.
        drop_last: whether a last batch that is not full is left out.
        workers: processes that decode; 0 for none but this one.
        device: where batches are put.
        part: which of several ranks this is; see `Plan`.
        passes: passes that gradients are accumulated over; see `Plan`.

    Raises:
        UserError: if an option is out of its range, or no batch is left.
    """

    def __init__(
        self,
        images: CocoSet,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        flip: bool = False,
        group_by_aspect: bool = False,
        drop_last: bool = False,
        workers: int = 0,
        device: torch.device | str = "cpu",
        part: Rank = ALONE,
        passes: int = 1,
    ) -> None:
        self.plan = Plan(
            len(images),
            batch_size,
            every_row=not shuffle,
            drop_last=drop_last,
            part=part,
            passes=passes,
        )
        arguments.count("workers", workers, least=0, most=arguments.MOST_WORKERS)
        self.images = images
        self.shuffle = shuffle
        self.seed = seed
        self.flip = flip
        self.group_by_aspect = group_by_aspect
        self.workers = workers
        self.device = torch.device(device)
        self.epoch = 0
        self._start = 0

    def __len__(self) -> int:
        """Return how many batches a whole epoch has, on this rank."""
        return len(self.plan)

    def __iter__(self) -> Iterator[DetectionBatch]:
        start, self._start = self._start, 0
        requests = self._requests()[start:]
        pinned = self.device.type == "cuda"
        batches = made(_Maker(self.images), requests, workers=self.workers, pinned=pinned)
        for request, batch in zip(requests, batches, strict=True):
            yield self._batch(request, batch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration draws."""
        self.epoch = epoch

    def start_at(self, batch: int) -> None:
        """Make the next iteration, and it alone, begin at a batch, from 0; none before is decoded.

        Raises:
            UserError: if the epoch has fewer batches.
        """
        check_start(batch, len(self))
        self._start = batch

    def _requests(self) -> list[_Request]:
        """Draw an epoch."""
        count = len(self.images)
        generator = generator_of(self.seed, self.epoch)
        rows = torch.arange(count)
        if self.shuffle:
            rows = torch.randperm(count, generator=generator)
        flip = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        if self.group_by_aspect:
            height, width = self.images.sizes[rows].unbind(dim=1)
            rows = _grouped(rows, width >= height, self.plan.batch_size)
        batches = [self.plan.rows(rows, position) for position in range(len(self))]
        return [_Request(batch.tolist(), flip[batch].tolist()) for batch in batches]

    def _batch(self, request: _Request, read: _Made) -> DetectionBatch:
        def put(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, non_blocking=True)

        return DetectionBatch(
            image=tuple(put(image).float().div_(255) for image, _, _ in read),
            boxes=tuple(Boxes(put(box), put(label)) for _, box, label in read),
            index=put(torch.tensor(request.rows)),
        )


def mirrored(
    image: UInt8[Tensor, "3 height width"], boxes: Boxes
) -> tuple[UInt8[Tensor, "3 height width"], Boxes]:
    """Mirror an image left to right, and its boxes."""
    left, top, right, bottom = boxes.box.unbind(dim=1)
    width = image.shape[2]
    box = torch.stack([width - right, top, width - left, bottom], dim=1)
    return image.flip(2), Boxes(box, boxes.label)


def _grouped(
    rows: Int64[Tensor, " rows"], wide: Bool[Tensor, " rows"], batch_size: int
) -> Int64[Tensor, " rows"]:
    """Order rows into batches of one kind, in the order in which each becomes full.

    What is over of either kind follows, cut into batches too.
    """
    full: list[Tensor] = []
    over: list[Tensor] = []
    for kind in (wide, ~wide):
        places = kind.nonzero().flatten()
        cut = len(places) // batch_size * batch_size
        full += places[:cut].view(-1, batch_size).unbind()
        over.append(places[cut:])
    full.sort(key=lambda places: int(places[-1]))
    return rows[torch.cat([*full, *over])]
