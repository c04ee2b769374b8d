"""The forward passes of a training step: all that a step has to know of a task."""

import copy
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlkd import distributed
from rlkd.errors import UserError
from rlkd.losses import LossInputs
from rlkd.models.eval_mode import evaluating
from rlkd.temperature import TemperatureSource
from rlkd.types import IGNORED, Temperatures

Scored = tuple[
    Float[Tensor, "instances classes"], Int[Tensor, " instances"] | Float[Tensor, "instances _"]
]
"""Logits and targets that a reward is computed from."""


class Parts(Protocol):
    """Instances that are parts of images, such as regions."""

    @property
    def image(self) -> Int[Tensor, " instances"]:
        """The image of the batch that each instance lies in."""
        ...


class Forwarded(NamedTuple):
    """What both networks made of a batch; an instance is what has a temperature."""

    inputs: LossInputs
    """All that the losses ask for, without the temperature."""
    target: Int[Tensor, " instances"] | Float[Tensor, "instances classes"]
    """What each instance is scored by; `IGNORED` for one that is not."""
    parts: Parts | None = None
    """None where each image of the batch is one instance."""


class Forward(ABC):
    """Calls student and teacher on a batch, and the student again to score it."""

    @abstractmethod
    def __call__(self, batch: Any) -> Forwarded:
        """Call both networks on a batch."""

    @abstractmethod
    def score(self, batch: Any, forwarded: Forwarded) -> Scored:
        """Call the student again, see `scoring`: on the probe if there is one, else on the batch.

        Args:
            batch: the one just trained on.
            forwarded: what was made of it, before the update.
        """

    def performance(
        self, source: TemperatureSource, batch: Any, forwarded: Forwarded
    ) -> Float[Tensor, ""]:
        """Return what a source observes after an update; see `score`."""
        return source.performance(*self.score(batch, forwarded))

    looks_ahead = False
    """Whether `moving` answers."""

    def moving(
        self, source: TemperatureSource, batch: Any
    ) -> Float[Tensor, "instances classes"] | None:
        """Return how a batch's logits move as a held-out loss falls, see `look_ahead.response`.

        Args:
            source: asks for it, or does not now.
            batch: the one that is trained on next.

        Returns:
            z'; None where the source does not look ahead now.
        """
        return None


class Head:
    """A copy of a classifier in float32, out of reach of optimisers and checkpoints."""

    def __init__(self, module: nn.Module) -> None:
        self._module = copy.deepcopy(module).float().eval().requires_grad_(False)

    def __call__(self, embedding: Tensor) -> Tensor:
        """Return the logits of an embedding, where it is."""
        if next(self._module.parameters()).device != embedding.device:
            self._module.to(embedding.device)
        return self._module(embedding)


class SourceInputs(NamedTuple):
    """What a temperature source is called with."""

    student_logits: Float[Tensor, "instances classes"]
    teacher_logits: Float[Tensor, "instances classes"]
    target: Int[Tensor, " instances"] | Float[Tensor, "instances classes"]
    learn_from: Bool[Tensor, " instances"] | None

    def alike_in_length(self) -> "SourceInputs":
        """Return as many instances as the rank with the most has.

        Regions may be fewer where an image has few proposals. What is added is not scored, and
        nothing is learnt from it.
        """
        rows, device = len(self.target), self.target.device
        missing = int(distributed.max_over_ranks(torch.tensor(rows, device=device))) - rows
        if not missing:
            return self

        def filled(tensor: Tensor, value: float) -> Tensor:
            return torch.cat([tensor, tensor.new_full((missing, *tensor.shape[1:]), value)])

        learn_from = self.learn_from
        if learn_from is None:
            learn_from = torch.ones(rows, dtype=torch.bool, device=device)
        return SourceInputs(
            filled(self.student_logits, 0.0),
            filled(self.teacher_logits, 0.0),
            filled(self.target, IGNORED),
            filled(learn_from, False),
        )


def rehearsed_temperatures(source: TemperatureSource, seen: LossInputs) -> Temperatures:
    """Return the temperatures that a source gives in evaluation mode, where it learns nothing.

    Raises:
        UserError: if there is not one for each instance.
    """
    assert seen.teacher_logits is not None
    with evaluating(source), torch.no_grad(), torch.random.fork_rng(devices=[]):
        chosen = source(seen.student_logits, seen.teacher_logits, seen.target)
    shapes = [tuple(each.shape) for each in (chosen.student, chosen.teacher)]
    if any(shape != (len(seen.target),) for shape in shapes):
        raise UserError(
            f"temperature: {type(source).__name__} returned shapes {shapes[0]} and {shapes[1]} for "
            f"{len(seen.target)} instances: return one temperature for each"
        )
    return chosen
