"""What the bodies are made of: every packaged method and source, on networks small enough."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from omegaconf import DictConfig
from tests.gpu.places import Place
from torch import Tensor, nn

from rlkd import models
from rlkd.config.compose import configure, options
from rlkd.engine import build
from rlkd.losses import LossInputs, Objective
from rlkd.models import Teacher
from rlkd.tasks.classification.forward import ClassifierForward, prepare_forward
from rlkd.temperature import ConstantTemperature, TemperatureSource
from rlkd.types import Batch

CLASSES, ROWS = 10, 8
METHODS = sorted({*options("method")} - {"alone"})
SOURCES = sorted(options("temperature"))
ACTING = ("temperature.warmup_epochs=0",)
EXTRA = dict.fromkeys(("random", "rlkd", "rlkd_paper"), ACTING)


@cache
def composed(*overrides: str) -> DictConfig:
    return configure(overrides)


def source_of(name: str, *, classes: int = CLASSES) -> TemperatureSource:
    config = composed(f"temperature={name}", *EXTRA.get(name, ()))
    source = build.temperature(config, num_classes=classes)
    source.start_epoch(1)
    return source


def batch_of(rows: int = ROWS) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(rows, 1, 8, 8, generator=generator)
    strong = torch.randn(rows, 1, 8, 8, generator=generator)
    return Batch(image, torch.arange(rows) % CLASSES, torch.arange(rows), strong)


class Pair:
    """Student, teacher and losses of a method, made ready on the CPU and put in a place."""

    def __init__(self, method: str, place: Place, *, fuse: bool = False) -> None:
        torch.manual_seed(0)
        self.objective: Objective = build.objective(composed(f"method={method}"))
        self.student = models.create("convnet_tiny", num_classes=CLASSES, in_channels=1)
        network = models.create("convnet_small", num_classes=CLASSES, in_channels=1)
        for parameter in network.parameters():
            parameter.data *= 3
        one = torch.ones(1, 1, 1)
        self.teacher = Teacher(network, fuse=fuse, renormalise=(one, 0 * one))
        self.forward: ClassifierForward = prepare_forward(
            self.objective,
            self.student,
            self.teacher,
            batch=batch_of(),
            train_targets=torch.arange(2 * ROWS) % CLASSES,
            num_classes=CLASSES,
            temperature=ConstantTemperature(4.0),
        )
        self.objective.start_epoch(1)
        for module in (self.student, self.teacher, self.objective):
            place.put(module)

    def losses(
        self, seen: LossInputs, source: TemperatureSource
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert seen.teacher_logits is not None
        chosen = source(seen.student_logits, seen.teacher_logits, seen.target)
        return self.objective(replace(seen, temperature=chosen))

    def trained(self, *more: nn.Module) -> Sequence[nn.Parameter]:
        modules: list[Any] = [self.student, self.objective, *more]
        return [each for module in modules for each in module.parameters()]
