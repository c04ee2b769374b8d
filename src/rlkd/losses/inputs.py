"""The inputs of losses, matched to them by the names of their parameters."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from rlkd.checks import float32_or_better
from rlkd.errors import UserError
from rlkd.types import Temperatures

Pair = tuple[str, str]
"""The paths of two features that belong together: the student's and the teacher's."""

FEATURE = frozenset({"student_feature", "teacher_feature"})
FEATURES = frozenset({"student_features", "teacher_features"})
EMBEDDING = frozenset({"student_embedding", "teacher_embedding"})
STRONG = frozenset({"student_logits_strong", "teacher_logits_strong"})
HEAD = "teacher_head"


@dataclass(frozen=True, slots=True)
class LossInputs:
    """All that a loss may ask for. A loss names what it needs as its parameters.

    `student_feature` and `teacher_feature` are one pair out of `student_maps` and `teacher_maps`;
    `student_features` and `teacher_features` are lists of them, shallow to deep. Which, the term
    says.
    """

    student_logits: Float[Tensor, "batch classes"]
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
    teacher_logits: Float[Tensor, "batch teacher_classes"] | None = None
    """None where a student trains alone; as many classes as the student's, which is checked."""
    temperature: Temperatures | None = None
    """None where a student trains alone."""
    index: Int[Tensor, " batch"] | None = None
    """The row of each instance in the training set."""
    student_embedding: Float[Tensor, "batch student_dim"] | None = None
    """The input of the student's classifier."""
    teacher_embedding: Float[Tensor, "batch teacher_dim"] | None = None
    teacher_head: Callable[[Tensor], Tensor] | None = None
    """The teacher's classifier, frozen: its embedding in, logits out."""
    student_logits_strong: Float[Tensor, "batch classes"] | None = None
    """The logits of a second, strongly augmented view."""
    teacher_logits_strong: Float[Tensor, "batch classes"] | None = None
    student_loss: Float[Tensor, ""] | None = None
    """The loss that a student computes from the labels itself, such as the sum of a detector's;
    None for a classifier."""
    label_smoothing: float = 0.0
    """Of the cross-entropy with the labels, in [0, 1], as the next; each method has that term."""
    class_weights: Float[Tensor, " classes"] | None = None
    """What each class's part of it is multiplied by; None for 1."""
    train_targets: Int[Tensor, " instances"] | None = None
    """The class of every training instance; given where a loss is built, not at each step."""
    student_maps: Mapping[str, Tensor] = field(default_factory=dict)
    """Features by module path."""
    teacher_maps: Mapping[str, Tensor] = field(default_factory=dict)

    def named(self, name: str, pairs: Sequence[Pair]) -> Any:
        """Return the input that a loss calls `name`, in float32 or better.

        Args:
            name: of a parameter.
            pairs: the features meant, by path.
        """
        if name in FEATURE | FEATURES:
            side = 0 if name.startswith("student") else 1
            maps = (self.student_maps, self.teacher_maps)[side]
            found = [float32_or_better(maps[pair[side]]) for pair in pairs]
            return found[0] if name in FEATURE else found
        value = getattr(self, name)
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return float32_or_better(value) if floating else value


NAMES = frozenset(LossInputs.__slots__) - {"student_maps", "teacher_maps"} | FEATURE | FEATURES
"""The names that a loss may ask for."""

CALLED = NAMES - {"train_targets"}
"""The names that it may ask for at every step."""

FROM_TEACHER = frozenset(
    {"temperature", HEAD, *(name for name in NAMES if name.startswith("teacher"))}
)
"""The names that only distillation has."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The inputs that a loss asks for."""

    when_called: frozenset[str]
    when_built: frozenset[str] = frozenset()
    """The inputs that the constructor of a class gets examples of; empty for a function."""
    builds: bool = False
    """True for a class, which is built from examples."""
    needed: frozenset[str] = frozenset()
    """Those of both that have no default."""

    @property
    def names(self) -> frozenset[str]:
        """All of it."""
        return self.when_called | self.when_built


def asked_by(name: str, loss: Callable[..., Any]) -> Asked:
    """Read from its parameters what a loss asks for.

    Args:
        name: of the loss, for messages.
        loss: a function, a module, or a class of modules with some arguments bound.

    Raises:
        UserError: if it asks for what training does not have.
    """
    made = loss.func if isinstance(loss, functools.partial) else loss
    if inspect.isclass(made) and issubclass(made, nn.Module):
        called, needed = _parameters(name, made.forward, skip=("self",), names=CALLED)
        built, also = _parameters(name, loss)
        return Asked(called, built, builds=True, needed=needed | also)
    asks = loss.forward if isinstance(loss, nn.Module) else loss
    called, needed = _parameters(name, asks, names=CALLED)
    return Asked(called, needed=needed)


def _parameters(
    name: str,
    called: Callable[..., Any],
    *,
    skip: tuple[str, ...] = (),
    names: frozenset[str] = NAMES,
) -> tuple[frozenset[str], frozenset[str]]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    bound = called.keywords if isinstance(called, functools.partial) else {}
    parameters = [
        each
        for each in inspect.signature(called).parameters.values()
        if each.name not in skip and each.name not in bound and each.kind not in kinds
    ]
    empty: Any = inspect.Parameter.empty
    needed = [each.name for each in parameters if each.default is empty]
    for parameter in needed:
        if parameter not in names:
            raise UserError(
                f"loss {name} asks for '{parameter}', which training does not have: "
                f"it may ask for {', '.join(sorted(names))}, the rest needs a default"
            )
    return frozenset(each.name for each in parameters) & names, frozenset(needed)
