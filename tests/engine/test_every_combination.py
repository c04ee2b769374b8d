"""Every packaged method with every kind of source takes three steps on tiny data."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from omegaconf import DictConfig

from rlkd import models
from rlkd.config.compose import configure, options
from rlkd.engine import build
from rlkd.tasks.classification.forward import prepare_forward
from rlkd.types import Batch

pytestmark = pytest.mark.usefixtures("plainly")

METHODS = [each for each in options("method") if each != "alone"]
SOURCES = {
    "constant": [],
    "ctkd": [],
    "rlkd_paper": ["temperature.warmup_epochs=0", "temperature.update_interval=1"],
}
CLASSES, ROWS = 10, 8
MOVING = {"crd"}
"""Losses that change with every step, here because a memory of past embeddings does."""


@cache
def composed(*overrides: str) -> DictConfig:
    return configure(overrides)


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(ROWS, 1, 8, 8, generator=generator)
    strong = torch.randn(ROWS, 1, 8, 8, generator=generator)
    return Batch(image, torch.arange(ROWS) % CLASSES, torch.arange(ROWS), strong)


@pytest.mark.long
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("method", METHODS)
def test_three_steps_are_finite_and_fall(method: str, source: str, batch: Batch) -> None:
    torch.manual_seed(0)
    objective = build.objective(composed(f"method={method}"))
    chosen_source = composed(f"temperature={source}", *SOURCES[source])
    temperature = build.temperature(chosen_source, num_classes=CLASSES)
    student = models.create("convnet_tiny", num_classes=CLASSES, in_channels=1)
    teacher = models.create("convnet_small", num_classes=CLASSES, in_channels=1)
    teacher.eval().requires_grad_(False)
    targets = torch.arange(2 * ROWS) % CLASSES
    forward = prepare_forward(
        objective,
        student,
        teacher,
        batch=batch,
        train_targets=targets,
        num_classes=CLASSES,
        temperature=temperature,
        mixes=True,
    )
    objective.start_epoch(1)
    temperature.start_epoch(1)
    along = [*objective.parameters(), *temperature.trained_parameters()]
    optimizer = torch.optim.SGD([*student.parameters(), *along], lr=1e-4)
    losses: list[float] = []
    for _ in range(3):
        torch.manual_seed(1)  # a loss that samples meets the same samples
        seen = forward(batch).inputs
        assert seen.teacher_logits is not None
        chosen = temperature(seen.student_logits, seen.teacher_logits, seen.target)
        loss, parts = objective(replace(seen, temperature=chosen))
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(each) for each in parts.values())
        assert any(each.grad is not None and each.grad.any() for each in student.parameters())
        assert all(each.grad is not None for each in objective.parameters())
        optimizer.step()
        losses.append(loss.item())
    if source == "constant" and method not in MOVING:
        assert losses[2] < losses[0]
