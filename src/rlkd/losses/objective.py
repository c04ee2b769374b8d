"""The student's objective: a weighted sum of losses, each told only what it asks for."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.types import Temperatures

Loss = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class LossInputs:
    """All that a loss may ask for. A loss names what it needs as its parameters."""

    student_logits: Float[Tensor, "batch classes"]
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
    teacher_logits: Float[Tensor, "batch classes"] | None = None
    """None where a student trains alone."""
    temperature: Temperatures | None = None
    """None where a student trains alone."""


FROM_TEACHER = frozenset({"teacher_logits", "temperature"})
"""The inputs that only distillation has."""


@dataclass(frozen=True, slots=True)
class Term:
    """A loss and its weight in the sum."""

    loss: Loss
    weight: float = 1.0


class Objective(nn.Module):
    """Sums weighted losses.

    Args:
        terms: the losses by name. Whatever parameters a loss has among the fields of
            `LossInputs` are given to it; the others must have defaults.

    Raises:
        UserError: if there is no term, or a loss asks for what does not exist.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        super().__init__()
        if not terms:
            raise UserError("the objective has no term: give method.terms at least one loss")
        self.terms = dict(terms)
        self.losses = nn.ModuleDict(
            {name: each.loss for name, each in terms.items() if isinstance(each.loss, nn.Module)}
        )
        self.needs = {name: _needs(name, each.loss) for name, each in self.terms.items()}

    @property
    def needs_teacher(self) -> bool:
        """Whether any term asks for what only a teacher gives."""
        return any(FROM_TEACHER.intersection(needs) for needs in self.needs.values())

    def forward(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the weighted sum, and each loss before its weight."""
        values = {name: self._value(name, inputs) for name in self.terms}
        total = sum(self.terms[name].weight * value for name, value in values.items())
        assert isinstance(total, Tensor)
        return total, {name: value.detach() for name, value in values.items()}

    def _value(self, name: str, inputs: LossInputs) -> Tensor:
        arguments = {need: getattr(inputs, need) for need in self.needs[name]}
        return self.terms[name].loss(**arguments)


def _needs(name: str, loss: Loss) -> tuple[str, ...]:
    known = {each.name for each in fields(LossInputs)}
    asked = loss.forward if isinstance(loss, nn.Module) else loss
    parameters = inspect.signature(asked).parameters.values()
    empty: Any = inspect.Parameter.empty
    for parameter in parameters:
        if parameter.name not in known and parameter.default is empty:
            raise UserError(
                f"loss {name} asks for '{parameter.name}', which training does not have: "
                f"it may ask for {', '.join(sorted(known))}, the rest needs a default"
            )
    return tuple(parameter.name for parameter in parameters if parameter.name in known)
