"""Two-stage detectors: over any backbone, as torchvision builds them, or of a factory."""

from rlkd.models.detection.detectors import (
    backbone_detector_names,
    create_detector,
    detector_names,
    is_two_stage,
)

__all__ = ["backbone_detector_names", "create_detector", "detector_names", "is_two_stage"]
