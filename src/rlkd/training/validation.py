"""Whether a configuration builds, found out on small stand-ins for the data."""

from dataclasses import replace

import torch
from torch import nn

from rlkd import models
from rlkd.training import build
from rlkd.training.compose import configure
from rlkd.training.observed import observe
from rlkd.types import Batch


def validate(overrides: list[str]) -> None:
    """Compose a configuration and build all its parts but the data, on small stand-ins.

    Raises:
        UserError: for the first part that does not build.
    """
    config = configure(overrides)
    build.trainer_options(config)
    made, source = build.objective(config), build.temperature(config)
    student, teacher = (
        None if config[role].name is None else models.create(config[role].name, num_classes=100)
        for role in ("student", "teacher")
    )
    if student is not None and teacher is not None:
        batch = Batch(torch.randn(8, 3, 32, 32), torch.arange(8), torch.arange(8))
        targets = torch.arange(100).repeat(2)
        observed = observe(
            made,
            student,
            teacher,
            batch=batch,
            train_targets=targets,
            num_classes=100,
            temperature=source,
        )
        seen = observed(batch)
        assert seen.teacher_logits is not None
        temperatures = source(seen.student_logits, seen.teacher_logits, seen.target)
        made(replace(seen, temperature=temperatures))
    build.scheduler(config)(build.optimizer(config)(nn.Linear(1, 1).parameters()))
    assert build.exploration_options(config.exploration).bands
