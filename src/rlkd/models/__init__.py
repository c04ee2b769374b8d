"""Networks: built by name, loaded from checkpoints, frozen as teachers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlkd.models.checkpoint import (
    ClassCountError,
    as_safetensors,
    classifier_entries,
    load_weights,
    read_metadata,
    save_weights,
)
from rlkd.models.create import create, names
from rlkd.models.ensemble import mean_of
from rlkd.models.freezing import freeze
from rlkd.models.teacher import Teacher, weights_sha256
from rlkd.models.trial import Settings, called_once, same_form

if TYPE_CHECKING:
    from rlkd.models.detection import create_detector, detector_names, is_two_stage

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
    "freeze",
    "is_two_stage",
    "load_weights",
    "mean_of",
    "names",
    "read_metadata",
    "same_form",
    "save_weights",
    "weights_sha256",
]


def __getattr__(name: str) -> Any:
    """Import detectors when one is used: torchvision takes seconds, and a plain loop has none."""
    if name in __all__:
        return getattr(import_module("rlkd.models.detection"), name)
    raise AttributeError(f"module 'rlkd.models' has no attribute {name!r}")
