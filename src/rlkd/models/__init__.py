"""Networks: built by name, loaded from checkpoints, frozen as teachers."""

from rlkd.models.checkpoint import load_weights, read_metadata, save_weights
from rlkd.models.create import create, names
from rlkd.models.detectors import create_detector, detector_names, fpn_levels, is_two_stage
from rlkd.models.teacher import Teacher, weights_sha256

__all__ = [
    "Teacher",
    "create",
    "create_detector",
    "detector_names",
    "fpn_levels",
    "is_two_stage",
    "load_weights",
    "names",
    "read_metadata",
    "save_weights",
    "weights_sha256",
]
