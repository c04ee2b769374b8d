"""Networks: built by name, loaded from checkpoints, frozen as teachers."""

from rlkd.models.checkpoint import (
    ClassCountError,
    as_safetensors,
    classifier_entries,
    load_weights,
    read_metadata,
    save_weights,
)
from rlkd.models.create import create, names
from rlkd.models.detectors import create_detector, detector_names, fpn_levels, is_two_stage
from rlkd.models.teacher import Teacher, weights_sha256
from rlkd.models.trial import Settings, called_once, same_form

__all__ = [
    "ClassCountError",
    "Settings",
    "Teacher",
    "as_safetensors",
    "called_once",
    "classifier_entries",
    "create",
    "create_detector",
    "detector_names",
    "fpn_levels",
    "is_two_stage",
    "load_weights",
    "names",
    "read_metadata",
    "same_form",
    "save_weights",
    "weights_sha256",
]
