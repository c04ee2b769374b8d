"""A detector's training module under observation, and a source that notes its calls."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from tests.agent.loop import make_agent
from tests.support.detection_parts import make_detector, scenes
from torch import Tensor

from rlkd import losses
from rlkd.agent import TemperatureAgent
from rlkd.data.detection.loader import DetectionLoader
from rlkd.engine.forward import Forwarded
from rlkd.engine.module import StudentModule
from rlkd.engine.scoring import probe_for
from rlkd.losses import LossInputs, Objective, Term
from rlkd.models import Teacher
from rlkd.tasks.detection.forward import DetectorForward, Regions
from rlkd.temperature import TemperatureSource
from rlkd.types import DetectionBatch, Temperatures


@dataclass
class Watched:
    """A distiller whose every look at a batch is noted."""

    distiller: StudentModule
    forward: DetectorForward
    seen: list[tuple[LossInputs, Regions]] = field(default_factory=list[tuple[LossInputs, Regions]])
    batches: list[DetectionBatch] = field(default_factory=list[DetectionBatch])
    temperatures: list[Temperatures] = field(default_factory=list[Temperatures])

    def step(self, batch: DetectionBatch) -> tuple[LossInputs, Regions]:
        self.distiller.training_step(batch, 0)
        return self.seen[-1]


def watched(source: TemperatureSource | None, **options: Any) -> Watched:
    """Make a distiller with a plain optimiser in place of Lightning's."""
    student = make_detector()
    teacher = None if source is None else Teacher(make_detector(1))
    forward = DetectorForward(
        student,
        teacher,
        probe=probe_for(source, options.pop("probe", None)),
        measured=options.pop("measured", "foreground"),
    )

    def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: Temperatures) -> Tensor:
        noted.temperatures.append(temperature)
        return losses.kd(student_logits, teacher_logits, temperature)

    terms = {"own": Term(losses.supervised)} | ({} if source is None else {"kd": Term(kd)})
    distiller = StudentModule(
        student=student,
        forward_pass=forward,
        loader=DetectionLoader(scenes(), batch_size=2, shuffle=False),
        objective=Objective(terms),
        optimizer=partial(torch.optim.SGD, lr=0.01),
        teacher=teacher,
        temperature=source,
        **options,
    )
    noted, optimizer = Watched(distiller, forward), torch.optim.SGD(student.parameters(), lr=0.01)

    class Noting:
        def __call__(self, batch: DetectionBatch) -> Forwarded:
            forwarded = forward(batch)
            assert isinstance(forwarded.parts, Regions)
            noted.batches.append(batch)
            noted.seen.append((forwarded.inputs, forwarded.parts))
            return forwarded

        def __getattr__(self, name: str) -> Any:
            return getattr(forward, name)

    def update(loss: Tensor) -> bool:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return True

    distiller.forward_pass = Noting()  # pyright: ignore[reportAttributeAccessIssue]
    vars(distiller)["optimizers"] = lambda: optimizer
    distiller._step_student = update  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    return noted


class Spy(TemperatureSource):
    """A source that notes what it is told."""

    def __init__(self, *, asks: bool = True, probed: bool = False) -> None:
        super().__init__()
        self.asks, self.probed = asks, probed
        self.called: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        self.measured: list[tuple[Tensor, Tensor]] = []
        self.observed: list[Tensor] = []

    @property
    def observation_due(self) -> bool:
        return self.asks

    @property
    def needs_probe(self) -> bool:
        return self.probed

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor,
        *,
        learn_from: Tensor | None = None,
    ) -> Temperatures:
        self.called.append((student_logits, teacher_logits, target, learn_from))
        return Temperatures.constant(4.0, like=student_logits)

    def performance(self, student_logits: Tensor, target: Tensor) -> Tensor:
        self.measured.append((student_logits, target))
        return torch.tensor(0.25)

    def observe(self, performance_after: Tensor) -> None:
        self.observed.append(performance_after)


def agent_of(source: str, **options: Any) -> TemperatureAgent:
    return make_agent(
        reward_source=source, probe_interval=1, gate=False, update_interval=1, **options
    )
