"""A training loop in which seeds take the place of networks and data."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from rlkd.agent import TemperatureAgent
from rlkd.agent.rollout import Rollout
from rlkd.temperature import TemperatureSource

CLASSES = 5


def make_agent(**options: Any) -> TemperatureAgent:
    """A small agent that learns after every two trajectories."""
    small: dict[str, Any] = {"hidden": 8, "update_interval": 2, "epochs": 2, "minibatches": 2}
    return TemperatureAgent(**(small | options))


@dataclass(frozen=True)
class Logits:
    """What the networks say of a batch."""

    student: Tensor
    teacher: Tensor
    target: Tensor


def logits_of(batch: int, *, rows: int = 8) -> Logits:
    """Draw what the networks say of a batch, the same for the same number."""
    generator = torch.Generator().manual_seed(batch)
    student = 2 * torch.randn(rows, CLASSES, generator=generator)
    teacher = 3 * torch.randn(rows, CLASSES, generator=generator)
    return Logits(student, teacher, torch.randint(CLASSES, (rows,), generator=generator))


def scored(correct: int, *, rows: int = 8, confidence: float = 2.0) -> Logits:
    """Logits with which the student is right in exactly the first `correct` rows."""
    target = torch.zeros(rows, dtype=torch.long)
    answer = (torch.arange(rows) >= correct).long()
    student = confidence * torch.nn.functional.one_hot(answer, CLASSES).float()
    return Logits(student, student.flip(1), target)


def drive(
    source: TemperatureSource,
    batches: Iterable[int],
    *,
    rows: int = 8,
    learn_from: Callable[[int], Tensor] | None = None,
) -> list[Tensor]:
    """Run the loop of `TemperatureSource` and return each batch's temperatures."""
    given: list[Tensor] = []
    for batch in batches:
        # The last batch of an epoch is smaller.
        seen = logits_of(batch, rows=rows - 3 if batch % 5 == 4 else rows)
        chosen = None if learn_from is None else learn_from(batch)[: len(seen.target)]
        given.append(
            source(seen.student, seen.teacher, seen.target, learn_from=chosen).student.clone()
        )
        if source.observation_due:
            after = logits_of(1000 + batch)
            source.observe(source.performance(after.student, after.target))
    return given


def spy_on_learning(agent: TemperatureAgent, monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """Note down every rollout that the agent learns from."""
    learn, seen = agent.learner.learn, []

    def noted(rollout: Rollout, generator: torch.Generator) -> dict[str, Tensor]:
        seen.append(rollout)
        return learn(rollout, generator)

    monkeypatch.setattr(agent.learner, "learn", noted)
    return seen
