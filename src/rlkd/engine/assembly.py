"""From a task's own parts to the module that trains, in one way for every task."""

from abc import ABC, abstractmethod

from omegaconf import DictConfig
from torch import nn

from rlkd import distributed
from rlkd.config.options import TrainerOptions
from rlkd.data.transforms.mixing import Mixing
from rlkd.engine import build
from rlkd.engine.averaging import MovingAverage
from rlkd.engine.forward import Forward
from rlkd.engine.module import EpochLoader, StudentModule
from rlkd.engine.sync_norm import synchronised
from rlkd.exploration import Explorer
from rlkd.losses import Objective
from rlkd.models import Teacher, freeze
from rlkd.temperature import TemperatureSource


class TaskParts(ABC):
    """What a task makes itself."""

    instances: int
    """Rows of the training set."""
    num_classes: int
    """Columns of the logits."""
    mixes: bool
    """Whether two images can be mixed, which takes all to be of one size."""
    mixing: Mixing | None = None
    """Mixes every training batch; None where none is."""

    @abstractmethod
    def student(self) -> nn.Module:
        """Make the student, with the weights it starts from."""

    @abstractmethod
    def teacher(self, objective: Objective) -> Teacher:
        """Make the frozen teacher.

        Raises:
            UserError: if none is configured, or it has no weights.
        """

    @abstractmethod
    def forward_pass(
        self,
        objective: Objective,
        student: nn.Module,
        teacher: Teacher | None,
        temperature: TemperatureSource | None,
        explorer: Explorer | None,
    ) -> Forward:
        """Make what calls both networks, and try all parts once on an example."""

    @abstractmethod
    def loader(self, objective: Objective) -> EpochLoader:
        """Make the loader of training batches."""


def assemble(config: DictConfig, options: TrainerOptions, parts: TaskParts) -> StudentModule:
    """Make the module that trains.

    Raises:
        UserError: for a part that cannot be made, or does not fit the others.
    """
    objective = build.objective(config)
    student = parts.student()
    if options.sync_batch_norm and distributed.this_rank().world_size > 1:
        student = synchronised(student, options.device)
    freeze(student, build.frozen(config.student))
    # Before losses put hooks on it.
    averaged = None if options.ema is None else MovingAverage(student, options.ema)
    teacher, temperature = None, None
    if objective.needs_teacher:
        teacher = parts.teacher(objective)
        temperature = build.temperature(config, num_classes=parts.num_classes)
    explorer = build.explorer(
        config.exploration,
        instances=parts.instances,
        num_classes=parts.num_classes,
        first_epoch=getattr(temperature, "warmup_epochs", 0) + 1,
        seed=config.seed,
        mixes=parts.mixes,
    )
    explorer = None if teacher is None else explorer
    forward_pass = parts.forward_pass(objective, student, teacher, temperature, explorer)
    if averaged is not None:
        averaged.reshape(student)  # by the first call, as observers of quantisation do
    loader = parts.loader(objective)
    scheduler, schedule_by = build.scheduler(
        config, steps_per_epoch=len(loader) // options.accumulate
    )
    return StudentModule(
        student=student,
        forward_pass=forward_pass,
        loader=loader,
        objective=objective,
        optimizer=build.optimizer(config),
        scheduler=scheduler,
        schedule_by=schedule_by,
        teacher=teacher,
        temperature=temperature,
        explorer=explorer,
        accumulate=options.accumulate,
        gradient_clip=options.gradient_clip,
        averaged=averaged,
        mixing=parts.mixing,
    )
