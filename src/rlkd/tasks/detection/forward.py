"""The forward passes of detection: student and teacher classify the same regions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.transform import resize_boxes

from rlkd import distributed
from rlkd.engine.forward import Forward, Forwarded, Head, Scored, rehearsed_temperatures
from rlkd.engine.scoring import scoring
from rlkd.errors import UserError
from rlkd.losses import LossInputs, Objective, Pair
from rlkd.losses.inputs import CALLED, FEATURE, FEATURES, HEAD
from rlkd.models import Teacher, is_two_stage
from rlkd.models.eval_mode import frozen_statistics
from rlkd.models.features import FINAL
from rlkd.temperature import TemperatureSource
from rlkd.types import IGNORED, Boxes, DetectionBatch

Performance = Literal["foreground", "loss"]
"""What a reward measures: the source's metric on regions with an object, or minus the loss."""

LEVEL = "fpn"
"""A map of the feature pyramid is called by this and its level, from 0, finest first."""
POOLED = "regions"
"""What is pooled from the pyramid for every region, one map a region."""
COPIES = 4
"""Regions around each box of a probe."""
_OF_REGIONS = CALLED - FEATURE - FEATURES - {HEAD, "student_loss"}
"""What has a row for each region, where a map of the pyramid has one for each image."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions of the images of a batch; one after the other they are the rows of the logits."""

    images: ImageList
    """The images as the student's transform normalised and resized them."""
    proposals: list[Float[Tensor, "_ 4"]]
    """The corners of each image's regions, in pixels of the resized image."""

    @property
    def image(self) -> Int[Tensor, " regions"]:
        """The image of the batch that each region lies in."""
        return torch.cat(
            [
                torch.full((len(each),), row, device=each.device)
                for row, each in enumerate(self.proposals)
            ]
        )


class DetectorForward(Forward):
    """Calls student and teacher on the regions that the student samples; each is an instance.

    The student proposes and samples regions as it does without a teacher. The teacher pools the
    same regions from its own features and classifies them. Where both resize and normalise alike,
    the teacher sees the very images that the student does; otherwise it transforms the originals
    itself and the regions are scaled along.

    Args:
        student: a two-stage detector, in training mode.
        teacher: a frozen one that knows the same classes; None where the student trains alone.
        needs_head: whether the losses ask for the teacher's classifier.
        probe: images held out of training, on which a reward is measured; None to measure it on
            the batch.
        measured: what a reward measures.
    """

    def __init__(
        self,
        student: FasterRCNN,
        teacher: Teacher | None,
        *,
        needs_head: bool = False,
        probe: DetectionBatch | None = None,
        measured: Performance = "foreground",
    ) -> None:
        self.student, self.probe, self.measured = student, probe, measured
        self._around_probe = None if probe is None else self.around(probe)
        self.teacher, self._head = None, None
        if teacher is not None:
            self.teacher = cast(FasterRCNN, teacher.network)
            self._shares_images = _transform_alike(student, self.teacher)
            if needs_head:
                self._head = Head(cast(Any, self.teacher.roi_heads.box_predictor).cls_score)

    def __call__(self, batch: DetectionBatch) -> Forwarded:
        """Return what the losses ask for, with regions as rows, and the regions themselves.

        Regions without an object are not scored.
        """
        student = self.student
        heads: Any = student.roi_heads
        images, targets = student.transform(list(batch.image), _targets(batch.boxes))
        maps = _maps(student, images)
        proposals, losses = student.rpn(images, maps, targets)
        proposals, _, labels, offsets = heads.select_training_samples(proposals, targets)
        regions = Regions(images, proposals)
        pooled = _pooled(student, maps, regions)
        embedding = heads.box_head(pooled)
        logits, boxes = heads.box_predictor(embedding)
        of_class, of_box = fastrcnn_loss(logits, boxes, labels, offsets)
        taught = self._teach(batch, regions)
        inputs = LossInputs(
            student_logits=logits,
            target=torch.cat(labels),
            teacher_logits=taught.logits,
            student_embedding=embedding,
            teacher_embedding=taught.embedding,
            teacher_head=self._head,
            student_loss=torch.stack([of_class, of_box, *losses.values()]).sum(),
            student_maps=_levels(student, maps) | {POOLED: pooled},
            teacher_maps=taught.maps,
        )
        return Forwarded(inputs, foreground(inputs.target), regions)

    def score(self, batch: DetectionBatch, forwarded: Forwarded) -> Scored:
        """Call the student again: around the probe's boxes, else on the batch's regions."""
        if self._around_probe is not None:
            regions, target = self._around_probe
            return self.logits(regions), target
        assert isinstance(forwarded.parts, Regions)
        return self.logits(forwarded.parts), forwarded.target

    def performance(
        self, source: TemperatureSource, batch: DetectionBatch, forwarded: Forwarded
    ) -> Float[Tensor, ""]:
        """Return what a source observes after an update: its own metric, or minus the loss."""
        if self.measured == "loss":
            return (
                -distributed.sum_over_ranks(self.loss(self.probe or batch))
                / distributed.this_rank().world_size
            )
        return super().performance(source, batch, forwarded)

    def around(self, batch: DetectionBatch) -> tuple[Regions, Int[Tensor, " regions"]]:
        """Return regions around a batch's own boxes, and the class of each.

        A few for every box, shifted and scaled by draws that are the same at every call; each
        overlaps its box by an IoU above one half. They depend on no network.
        """
        resizing = self.student.transform
        was = resizing.training
        images, targets = resizing.eval()(list(batch.image), _targets(batch.boxes))
        resizing.train(was)
        generator = torch.Generator().manual_seed(0)
        proposals = [jittered(each["boxes"], COPIES, generator) for each in targets]
        return Regions(images, proposals), torch.cat(
            [each["labels"] for each in targets]
        ).repeat_interleave(COPIES)

    def logits(self, regions: Regions) -> Float[Tensor, "regions classes"]:
        """Return the student's logits on given regions, see `scoring`."""
        with scoring(self.student):
            maps = _maps(self.student, regions.images)
            pooled = _pooled(self.student, maps, regions)
            return _classified(self.student, pooled)[0].float()

    def loss(self, batch: DetectionBatch) -> Float[Tensor, ""]:
        """Return the student's own loss on a batch, see `scoring`.

        Scale and regions are drawn as in training, by a draw that is the same at every call.
        """
        device = batch.index.device
        devices = [device] if device.type == "cuda" else []
        with scoring(self.student), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            losses: Any = self.student(list(batch.image), _targets(batch.boxes))
        return torch.stack(list(losses.values())).sum().float()

    @torch.no_grad()
    def _teach(self, batch: DetectionBatch, regions: Regions) -> "_Taught":
        teacher = self.teacher
        if teacher is None:
            return _Taught()
        shared = Regions(regions.images, [each.detach() for each in regions.proposals])
        if not self._shares_images:
            shared = _moved(shared, teacher.transform(list(batch.image), None)[0])
        maps = _maps(teacher, shared.images)
        pooled = _pooled(teacher, maps, shared)
        logits, embedding = _classified(teacher, pooled)
        return _Taught(logits, embedding, _levels(teacher, maps) | {POOLED: pooled})


@dataclass(frozen=True, slots=True)
class _Taught:
    logits: Tensor | None = None
    embedding: Tensor | None = None
    maps: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def prepare_forward(
    objective: Objective,
    student: FasterRCNN,
    teacher: Teacher | None,
    *,
    batch: DetectionBatch,
    num_classes: int,
    temperature: TemperatureSource | None,
    probe: DetectionBatch | None = None,
    measured: Performance = "foreground",
) -> DetectorForward:
    """Make the objective ready for the regions of two detectors.

    Args:
        objective: the losses; those with weights are built.
        student: on the batch's device, in training mode.
        teacher: the same; None where the student trains alone.
        batch: a few training images with objects.
        num_classes: of the data, the background counted.
        temperature: the source; called once in evaluation mode.
        probe: images held out of training, on which a reward is measured; None for the batch.
        measured: what a reward measures.

    Raises:
        UserError: if a detector is not of two stages, knows other classes, or if a loss or the
            source does not fit.
    """
    roles = {"student": student} | ({"teacher": teacher.network} if teacher else {})
    for role, network in roles.items():
        if not is_two_stage(network):
            raise UserError(
                f"the {role} is a {type(network).__name__}, which does not classify regions: give "
                "a two-stage detector such as fasterrcnn_resnet50"
            )
    needs_head = HEAD in objective.names
    forward = DetectorForward(
        student, teacher, needs_head=needs_head, probe=probe, measured=measured
    )
    # Before any label is looked up among too few classes.
    _check_classes("student", forward.logits(forward.around(batch)[0]), num_classes)
    # Batch norms and random generators stay as they were.
    with frozen_statistics(student), torch.random.fork_rng(devices=[]):
        seen, target, _ = forward(batch)
    if seen.teacher_logits is not None:
        _check_classes("teacher", seen.teacher_logits, num_classes)
    if temperature is not None and seen.teacher_logits is not None:
        scored = replace(seen, target=target)
        seen = replace(seen, temperature=rehearsed_temperatures(temperature, scored))
    pairs = {name: _pairs(name, objective, seen) for name in objective.terms}
    if teacher is not None and any(pair[0] != POOLED for each in pairs.values() for pair in each):
        _check_strides(student, teacher.network)
    objective.prepare(seen, pairs)
    return forward


def foreground(label: Int[Tensor, " regions"]) -> Int[Tensor, " regions"]:
    """Return the classes of regions with an object, and `IGNORED` for the background."""
    return torch.where(label > 0, label, IGNORED)


def jittered(
    box: Float[Tensor, "boxes 4"], copies: int, generator: torch.Generator
) -> Float[Tensor, "regions 4"]:
    """Return shifted and scaled copies of each box, those of the first box first.

    Centres move by up to a tenth of width and height, which change by up to 15 %; the IoU with the
    box stays above one half.

    Args:
        box: corners.
        copies: of each box.
        generator: on the CPU.
    """
    shift = (2 * torch.rand(len(box) * copies, 2, generator=generator) - 1).to(box) * 0.1
    scale = 1 + (2 * torch.rand(len(box) * copies, 2, generator=generator) - 1).to(box) * 0.15
    repeated = box.repeat_interleave(copies, dim=0)
    size = repeated[:, 2:] - repeated[:, :2]
    centre = (repeated[:, 2:] + repeated[:, :2]) / 2 + shift * size
    return torch.cat((centre - scale * size / 2, centre + scale * size / 2), dim=1)


def _targets(boxes: Sequence[Boxes]) -> list[dict[str, Tensor]]:
    return [{"boxes": each.box, "labels": each.label} for each in boxes]


def _maps(detector: FasterRCNN, images: ImageList) -> dict[str, Tensor]:
    maps: Any = detector.backbone(images.tensors)
    return {"0": maps} if isinstance(maps, Tensor) else maps


def _pooled(detector: FasterRCNN, maps: Mapping[str, Tensor], regions: Regions) -> Tensor:
    heads: Any = detector.roi_heads
    return heads.box_roi_pool(maps, regions.proposals, regions.images.image_sizes)


def _classified(detector: FasterRCNN, pooled: Tensor) -> tuple[Tensor, Tensor]:
    heads: Any = detector.roi_heads
    embedding = heads.box_head(pooled)
    return heads.box_predictor(embedding)[0], embedding


def _levels(detector: FasterRCNN, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the maps that regions are pooled from, finest first."""
    pool: Any = detector.roi_heads.box_roi_pool
    names: list[str] = pool.featmap_names
    return {f"{LEVEL}{number}": maps[name] for number, name in enumerate(names)}


def _moved(regions: Regions, images: ImageList) -> Regions:
    """Scale regions to the same images at other sizes."""
    sizes = zip(regions.images.image_sizes, images.image_sizes, strict=True)
    proposals = [
        resize_boxes(each, list(old), list(new))
        for each, (old, new) in zip(regions.proposals, sizes, strict=True)
    ]
    return Regions(images, proposals)


def _transform_alike(student: FasterRCNN, teacher: FasterRCNN) -> bool:
    transforms: list[Any] = [student.transform, teacher.transform]
    one, other = (
        (each.image_mean, each.image_std, each.min_size[-1], each.max_size, each.fixed_size)
        for each in transforms
    )
    return one == other


def _check_classes(role: str, logits: Float[Tensor, "regions classes"], num_classes: int) -> None:
    if logits.shape[1] != num_classes:
        raise UserError(
            f"the {role} has {logits.shape[1]} classes and the data have {num_classes}, "
            "the background counted: make a detector for these classes"
        )


def _check_strides(student: nn.Module, teacher: nn.Module) -> None:
    pools: list[Any] = [cast(Any, each).roi_heads.box_roi_pool for each in (student, teacher)]
    one, other = ([round(1 / scale) for scale in each.scales] for each in pools)
    if one != other:
        raise UserError(
            f"the student's pyramid has strides {one} and the teacher's {other}, so their maps do "
            f"not pair: choose networks of equal strides, or layers={POOLED}"
        )


def _pairs(name: str, objective: Objective, seen: LossInputs) -> list[Pair]:
    asked = objective.asked[name].names
    if not asked & (FEATURE | FEATURES):
        return []
    levels = [each for each in seen.student_maps if each in seen.teacher_maps and each != POOLED]
    named = {"stages": levels, "last": levels[-1:], FINAL: levels[-1:], POOLED: [POOLED]}
    named |= {each: [each] for each in levels}
    given: Any = objective.terms[name].layers
    listed: Sequence[Any] = given if isinstance(given, list | tuple) else [given]
    if not listed or not all(isinstance(each, str) and each in named for each in listed):
        raise UserError(f"loss {name}: layers={given}: a detector has {', '.join(named)}")
    wanted = [one for each in listed for one in named[each]]
    if asked & _OF_REGIONS and set(wanted) != {POOLED}:
        raise UserError(
            f"loss {name} needs the map of each region and not of an image: give its term "
            f"layers={POOLED}"
        )
    return [(each, each) for each in wanted]
