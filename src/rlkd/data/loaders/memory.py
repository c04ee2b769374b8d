"""Images held in memory, and a loader that augments whole batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from rlkd import arguments
from rlkd.data.loaders.batch_plan import ALONE, Plan
from rlkd.data.loaders.normaliser import Normaliser
from rlkd.data.loaders.protocol import check_partners, check_start, check_strong_view
from rlkd.data.seeding import generator_of
from rlkd.data.transforms.crop_flip import Augmentation, crop_and_flip
from rlkd.data.transforms.randaugment import StrongAugmentation, strong_view
from rlkd.errors import UserError
from rlkd.ranks import Part
from rlkd.types import Batch


def check_single_class(target: Tensor) -> None:
    """Refuse targets that are not one class an image, as multi-hot ones are.

    Raises:
        UserError: if they are no vector of whole numbers.
    """
    if target.dim() != 1 or target.is_floating_point() or target.is_complex():
        raise UserError(
            f"targets of shape {tuple(target.shape)} and type {target.dtype} are not one class an "
            "image: give the index of each image's class, as int64; several classes of one image "
            "(multi-hot targets) are not for distillation by softmax"
        )


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size.

    Raises:
        UserError: if a label is no index into the class names.
    """

    image: UInt8[Tensor, "n c h w"]
    """Pixels in 0 to 255."""
    target: Int64[Tensor, " n"]
    """The class of each image: an index into `class_names`."""
    class_names: tuple[str, ...]
    """What the classes are called, in the order of their indices."""

    def __post_init__(self) -> None:
        check_single_class(self.target)
        if len(self.target) == 0:
            return
        lowest, highest = (int(label) for label in self.target.aminmax())
        if lowest < 0 or highest >= self.num_classes:
            wrong = (self.target < 0) | (self.target >= self.num_classes)
            row = int(wrong.int().argmax())
            raise UserError(
                f"row {row} of the images has label {int(self.target[row])}, not 0 to "
                f"{self.num_classes - 1}: fix the label, or name every class in class_names"
            )

    @property
    def num_classes(self) -> int:
        """How many classes there are, those without images included."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.image.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.target)

    def content(self, row: int) -> bytes:
        """Return the pixels of one image."""
        return self.image[row].cpu().numpy().tobytes()

    def select(self, rows: Int64[Tensor, " rows"]) -> "ImageSet":
        """Return a copy of some rows, in the order given."""
        rows = rows.to(self.target.device)
        return ImageSet(self.image[rows], self.target[rows], self.class_names)

    def to(self, device: torch.device | str) -> "ImageSet":
        """Return the same images on a device."""
        return ImageSet(self.image.to(device), self.target.to(device), self.class_names)


class MemoryLoader:
    """Batches of normalised images; batch k of epoch e depends on the seed, e and k alone.

    All that is random in an epoch is drawn at its start, on the CPU, for all rows at once: the
    batches are the same on every device and whatever was iterated before. The epoch moves on only
    by `set_epoch`.

    Args:
        images: the images; they are kept on `device`.
        batch_size: images a batch, 1 or more; of all ranks and passes together where shuffled.
        mean: one number a channel, with pixels in [0, 1].
        std: the same, above 0.
        seed: of the order and the augmentation.
        shuffle: whether each epoch has an order of its own; otherwise rows come as they lie, and
            each is seen once, by whichever rank.
        crop_padding: pixels of black added on each side before a random crop; 0 for no crop.
        flip: whether images are mirrored left to right with probability one half.
        drop_last: whether a last batch that is not full is left out.
        strong_view: whether batches carry a second, strongly augmented view: a crop and a flip of
            its own and a random change of shape or colour. The first view is the same either way.
        memory_format: of the images of a batch: contiguous or channels last.
        device: where images are kept and batches are made.
        part: which of several ranks this is; see `Plan`.
        passes: passes that gradients are accumulated over; see `Plan`.

    Raises:
        UserError: if an option is out of its range, or no batch is left.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        shuffle: bool,
        seed: int = 0,
        crop_padding: int = 0,
        flip: bool = False,
        drop_last: bool = False,
        strong_view: bool = False,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
        part: Part = ALONE,
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
        arguments.count("crop_padding", crop_padding, least=0, most=arguments.MOST_PIXELS)
        channels = images.shape[0]
        self.device = torch.device(device)
        self._normalise = Normaliser(
            channels, mean=mean, std=std, memory_format=memory_format, device=self.device
        )
        if strong_view:
            check_strong_view(channels)
        self.images = images.to(self.device)
        self.shuffle = shuffle
        self.seed = seed
        self.crop_padding = crop_padding
        self.flip = flip
        self.strong_view = strong_view
        self.epoch = 0
        self.partner: Int64[Tensor, " n"] | None = None
        self._partner_augmentation: Augmentation | None = None
        self._start = 0

    def __len__(self) -> int:
        """Return how many batches a whole epoch has, on this rank."""
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        generator = generator_of(self.seed, self.epoch, 0)
        order = torch.arange(len(self.images))
        if self.shuffle:
            order = torch.randperm(len(self.images), generator=generator)
        augmentation, strong = self._draw(generator), self._draw_strong()
        on_device = order.to(self.device)
        for position in range(start, len(self)):
            rows = self.plan.rows(on_device, position)
            batch = self._batch(rows, augmentation.select(rows))
            if strong is not None:
                second = self._strong(rows, strong.select(self.plan.rows(order, position)))
                batch = replace(batch, strong=second)
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration draws."""
        self.epoch = epoch
        self._partner_augmentation = None

    def start_at(self, batch: int) -> None:
        """Make the next iteration, and it alone, begin at a batch, from 0.

        Raises:
            UserError: if the epoch has fewer batches.
        """
        check_start(batch, len(self))
        self._start = batch

    def set_partners(self, partner: Int64[Tensor, " n"] | None) -> None:
        """Give each row the row it is mixed with, -1 for none; None takes all partners away.

        Raises:
            ValueError: if there is not one partner a row, or a partner is no row.
        """
        if partner is not None:
            check_partners(partner, len(self.images))
            partner = partner.to(self.device)
        self.partner = partner

    def partner_batch(self, batch: Batch) -> Batch:
        """Return the partner of each instance, cropped and flipped by a draw of its own.

        Row 0 stands where an instance has no partner. The draw depends on the seed, the epoch and
        the instance.

        Raises:
            ValueError: if no partners are set.
        """
        if self.partner is None:
            raise ValueError("no partners: call set_partners first")
        if self._partner_augmentation is None:
            self._partner_augmentation = self._draw(generator_of(self.seed, self.epoch, 1))
        rows = self.partner[batch.index].clamp(min=0)
        return self._batch(rows, self._partner_augmentation.select(batch.index))

    def _batch(self, rows: Int64[Tensor, " batch"], augmentation: Augmentation) -> Batch:
        image = self.images.image[rows]
        if self.crop_padding or self.flip:
            image = crop_and_flip(image, augmentation, crop_padding=self.crop_padding)
        return Batch(image=self._normalise(image), target=self.images.target[rows], index=rows)

    def _strong(
        self, rows: Int64[Tensor, " batch"], augmentation: StrongAugmentation
    ) -> Float32[Tensor, "batch c h w"]:
        image = self.images.image[rows]
        return self._normalise(strong_view(image, augmentation, crop_padding=self.crop_padding))

    def _draw(self, generator: torch.Generator) -> Augmentation:
        drawn = Augmentation.draw(
            len(self.images), crop_padding=self.crop_padding, flip=self.flip, generator=generator
        )
        return drawn.to(self.device)

    def _draw_strong(self) -> StrongAugmentation | None:
        if not self.strong_view:
            return None
        return StrongAugmentation.draw(
            len(self.images),
            crop_padding=self.crop_padding,
            flip=self.flip,
            generator=generator_of(self.seed, self.epoch, 2),
        )
