"""The options of detection, their types and ranges checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from rlkd import arguments
from rlkd.errors import UserError
from rlkd.tasks.detection.forward import Performance

PRETRAINED: Mapping[str | None, dict[str, bool]] = {
    None: {},
    "imagenet": {"pretrained_backbone": True},
    "coco": {"pretrained": True},
}
"""The arguments of `create_detector` for `student_pretrained` and `teacher_pretrained`."""
REPLACED: Mapping[str | None, dict[str, bool]] = {
    None: {},
    "imagenet": {},
    "coco": {"in_published_form": True},
}
"""Likewise, where a checkpoint's weights are loaded in place of those."""

_ONE = ("max_size", "fpn_channels", "representation_size", "regions_per_image")
_SEVERAL = ("min_size", "anchor_sizes")


@dataclass(frozen=True)
class DetectionOptions:
    """How detectors are built, fed and measured; see configs/task/detection.yaml.

    Raises:
        UserError: for an option of the wrong type, or that is none of those allowed.
    """

    base_temperature: float
    probe_size: int
    max_instances: int | None
    performance: Performance
    flip: bool
    group_by_aspect: bool
    workers: int
    student_pretrained: str | None
    teacher_pretrained: str | None
    detector: dict[str, Any]

    def __post_init__(self) -> None:
        if self.performance not in get_args(Performance):
            raise _refused(self, "performance", f"choose one of {', '.join(get_args(Performance))}")
        for name in ("student_pretrained", "teacher_pretrained"):
            if getattr(self, name) not in PRETRAINED:
                raise _refused(
                    self, name, "choose imagenet (the backbone), coco (the whole detector) or null"
                )
        arguments.number("task.base_temperature", self.base_temperature, above=0)
        arguments.count("task.probe_size", self.probe_size, least=0)
        arguments.count("task.max_instances", self.max_instances, optional=True)
        arguments.flag("task.flip", self.flip)
        arguments.flag("task.group_by_aspect", self.group_by_aspect)
        arguments.count("task.workers", self.workers, least=0, most=arguments.MOST_WORKERS)
        if not _is(self.detector, dict):
            raise _refused(self, "detector", "give its settings, task.detector.min_size=[640,800]")
        for name, value in self.detector.items():
            listed = name in _SEVERAL and _is(value, list)
            if name in (*_ONE, *_SEVERAL) and not all(
                each is None or _is(each, int) for each in (value if listed else [value])
            ):
                many = f", or several, {name}=[64,128]" if name in _SEVERAL else ""
                raise UserError(
                    f"task.detector.{name}={value}: give a whole number{many}; null leaves it to "
                    "the network"
                )

    @property
    def detector_options(self) -> dict[str, Any]:
        """How both detectors are built, without what is left to the network."""
        return {name: value for name, value in self.detector.items() if value is not None}

    @property
    def published(self) -> list[str]:
        """Which of teacher and student have published weights, as whole detectors."""
        given = {"teacher": self.teacher_pretrained, "student": self.student_pretrained}
        return [role for role, weights in given.items() if weights == "coco"]


def _refused(options: DetectionOptions, name: str, fix: str) -> UserError:
    return UserError(f"task.{name}={getattr(options, name)}: {fix}")


def _is(value: object, *kinds: type) -> bool:
    """Return whether what a configuration gave is of a type; true and false are no numbers."""
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
