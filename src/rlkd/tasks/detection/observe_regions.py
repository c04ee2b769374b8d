"""Whether detectors, losses and temperatures fit together, found out before training."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from rlkd.engine.scoring import frozen_statistics
from rlkd.errors import UserError
from rlkd.losses import LossInputs, Objective, Pair
from rlkd.losses.inputs import CALLED, FEATURE, FEATURES, HEAD
from rlkd.models import Teacher, is_two_stage
from rlkd.tasks.classification.forward import rehearsed_temperatures
from rlkd.tasks.detection.forward import POOLED, ObservedRegions, foreground
from rlkd.temperature import TemperatureSource
from rlkd.types import DetectionBatch

_OF_REGIONS = CALLED - FEATURE - FEATURES - {HEAD, "student_loss"}
"""What has a row for each region, where a map of the pyramid has one for each image."""


def observe_regions(
    objective: Objective,
    student: FasterRCNN,
    teacher: Teacher | None,
    *,
    batch: DetectionBatch,
    num_classes: int,
    temperature: TemperatureSource | None,
) -> ObservedRegions:
    """Make the objective ready for the regions of two detectors.

    Args:
        objective: the losses; those with weights are built.
        student: on the batch's device, in training mode.
        teacher: the same; None where the student trains alone.
        batch: a few training images with objects.
        num_classes: of the data, the background counted.
        temperature: the source; called once in evaluation mode.

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
    observed = ObservedRegions(student, teacher, needs_head=HEAD in objective.names)
    # Before any label is looked up among too few classes.
    _check_classes("student", observed.logits(observed.around(batch)[0]), num_classes)
    seen = rehearsed_regions(observed, batch)
    if seen.teacher_logits is not None:
        _check_classes("teacher", seen.teacher_logits, num_classes)
    if temperature is not None and seen.teacher_logits is not None:
        scored = replace(seen, target=foreground(seen.target))
        seen = replace(seen, temperature=rehearsed_temperatures(temperature, scored))
    pairs = {name: _pairs(name, objective, seen) for name in objective.terms}
    if teacher is not None and any(pair[0] != POOLED for each in pairs.values() for pair in each):
        _check_strides(student, teacher.network)
    objective.prepare(seen, pairs)
    return observed


def rehearsed_regions(observed: ObservedRegions, batch: DetectionBatch) -> LossInputs:
    """Look at a batch, leaving batch norms and random generators as they were."""
    with frozen_statistics(observed.student), torch.random.fork_rng(devices=[]):
        return observed(batch)[0]


def _check_classes(role: str, logits: Float[Tensor, "regions classes"], num_classes: int) -> None:
    if logits.shape[1] != num_classes:
        raise UserError(
            f"the {role} tells {logits.shape[1]} classes apart and the data have {num_classes}, "
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
    named = {"stages": levels, "last": levels[-1:], POOLED: [POOLED]}
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
