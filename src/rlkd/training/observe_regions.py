"""Whether detectors, losses and temperatures fit together, found out before training."""

from dataclasses import replace
from typing import Any

import torch
from torchvision.models.detection import FasterRCNN

from rlkd.errors import UserError
from rlkd.losses import LossInputs, Objective, Pair
from rlkd.losses.inputs import FEATURE, FEATURES, HEAD
from rlkd.models import Teacher, is_two_stage
from rlkd.temperature import TemperatureSource
from rlkd.training.measure import scoring
from rlkd.training.observed import rehearsed_temperatures
from rlkd.training.regions import ObservedRegions
from rlkd.types import DetectionBatch


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
    seen = rehearsed_regions(observed, batch)
    for role, logits in (("student", seen.student_logits), ("teacher", seen.teacher_logits)):
        if logits is not None and logits.shape[1] != num_classes:
            raise UserError(
                f"the {role} tells {logits.shape[1]} classes apart and the data have "
                f"{num_classes}, the background counted: make a detector for these classes"
            )
    if temperature is not None and seen.teacher_logits is not None:
        seen = replace(seen, temperature=rehearsed_temperatures(temperature, seen))
    objective.prepare(seen, {name: _pairs(name, objective, seen) for name in objective.terms})
    return observed


def rehearsed_regions(observed: ObservedRegions, batch: DetectionBatch) -> LossInputs:
    """Look at a batch without gradient, leaving batch norms and random generators as they were."""
    with scoring(observed.student), torch.random.fork_rng(devices=[]):
        return observed(batch)[0]


def _pairs(name: str, objective: Objective, seen: LossInputs) -> list[Pair]:
    if not objective.asked[name].names & (FEATURE | FEATURES):
        return []
    levels = [each for each in seen.student_maps if each in seen.teacher_maps]
    given: Any = objective.terms[name].layers
    wanted = list(given) if isinstance(given, list | tuple) else [given]
    if wanted == ["stages"]:
        wanted = levels
    elif wanted == ["last"]:
        wanted = levels[-1:]
    for each in wanted:
        if each not in levels:
            raise UserError(
                f"loss {name}: layers={given}: a detector has last, stages, or {', '.join(levels)}"
            )
    return [(each, each) for each in wanted]
