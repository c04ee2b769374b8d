"""The images of a detection run, by their part in it."""

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torchvision.models.detection import FasterRCNN

from rlkd.config.options import TrainerOptions, probe_options
from rlkd.data.detection.coco import DetectionSets
from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.detection.loader import DetectionLoader
from rlkd.data.fingerprint import fingerprint
from rlkd.data.splits import choose_rows, take_out
from rlkd.engine.shared_data import load
from rlkd.errors import UserError, notice
from rlkd.reporting.results.provenance import counted
from rlkd.types import DetectionBatch


@dataclass(frozen=True)
class Held:
    """The images of a run, by their part in it."""

    train: CocoSet
    """What the student trains on: all but what is held out."""
    test: CocoSet
    validation: CocoSet | None
    probe: CocoSet | None


def detection_sets(config: DictConfig) -> DetectionSets:
    """Load the data.

    Raises:
        UserError: if they are missing or broken, or are no set of objects in images.
    """
    made = load(config)
    if not isinstance(made, DetectionSets):
        raise UserError(
            f"data={config.chosen.data} has no objects in boxes: task=detection needs data=coco "
            "or data=shapes"
        )
    return made


def hold_out(config: DictConfig, options: TrainerOptions) -> Held:
    """Load the data and hold out what is not to be trained on.

    The probe takes images with objects: without any there is nothing to measure. Objects of the
    training images that cannot be learnt for want of area are reported in a warning.

    Raises:
        UserError: if the data are missing or broken, a part has no objects, or too much is held
            out.
    """
    sets = detection_sets(config)
    train, validation, probe = sets.train, None, None
    require_objects(train, "training")
    require_objects(sets.test, "test")
    if train.without_area:
        notice(
            f"left out of training for want of area: "
            f"{counted(len(train.without_area), 'annotation')}, the first with the id "
            f"{train.without_area[0]}"
        )
    if options.validation_size:
        every = torch.arange(len(train))
        rows = _drawn(every, options.validation_size, 0, "trainer.validation_size")
        train, validation = take_out(train, rows)
    size = probe_options(config.probe).size
    if size:
        train, probe = take_out(train, _drawn(_with_objects(train), size, 1, "probe.size"))
    if validation is not None:
        require_objects(validation, "validation")
    return Held(train, sets.test, validation, probe)


def require_objects(images: CocoSet, part: str) -> None:
    """Refuse a set in which there is nothing to learn or to find.

    Args:
        images: the set.
        part: its name, for messages.

    Raises:
        UserError: if none of its images has an object with area that is no crowd.
    """
    if not images.has_objects:
        raise UserError(
            f"none of the {len(images)} {part} images has an object: give annotations of them"
        )


def data_sha256(held: Held) -> str:
    """Return the hash by which the data are recognised where they have moved; see `fingerprint`."""
    splits = [(each.sizes, each.content) for each in (held.train, held.test)]
    return fingerprint(held.train.class_names, splits)


def check_sizes(images: CocoSet, detector: FasterRCNN) -> None:
    """Find out whether the detector can resize every image, whichever side it draws.

    Args:
        images: those it is to see; none is decoded.
        detector: gives the sides.

    Raises:
        UserError: for an image so elongated that its shorter side would have no pixel.
    """
    transform: Any = detector.transform
    size = images.sizes.double()
    short, long = size.amin(dim=1), size.amax(dim=1)
    # As torchvision computes it, rounding errors included.
    scale = (min(transform.min_size) / short).minimum(transform.max_size / long)
    lost = (short * scale < 1).nonzero().flatten().tolist()
    if lost:
        height, width = images.size(lost[0])
        raise UserError(
            f"image {images.file_name(lost[0])} of {width} x {height} pixels is too elongated: "
            f"with its longer side resized to {transform.max_size}, the shorter would have less "
            "than 1; crop or remove it, or give a larger task.detector.max_size"
        )


def whole_batch(images: CocoSet, device: torch.device | str) -> DetectionBatch:
    """Return a set as one batch, as it is."""
    return next(iter(DetectionLoader(images, batch_size=len(images), shuffle=False, device=device)))


def example_batch(images: CocoSet, size: int = 2) -> DetectionBatch:
    """Return the first images with objects, on the CPU, where networks are made."""
    return whole_batch(images.select(_with_objects(images)[:size]), "cpu")


def _with_objects(images: CocoSet) -> torch.Tensor:
    return torch.tensor([row for row in range(len(images)) if len(images.boxes(row).box)]).long()


def _drawn(rows: torch.Tensor, size: int, seed: int, key: str) -> torch.Tensor:
    if not 0 < size < len(rows):
        raise UserError(
            f"{key}={size}: {len(rows)} training images can be held out; give 0 to {len(rows) - 1}"
        )
    return rows[choose_rows(rows, size, seed=seed, stratified=False)]
