"""The student's objective: a weighted sum of losses, each given only the inputs it asks for."""

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd import arguments
from rlkd.errors import UserError, one_line
from rlkd.losses.inputs import (
    EMBEDDING,
    FEATURE,
    FEATURES,
    FROM_TEACHER,
    HEAD,
    STRONG,
    LossInputs,
    Pair,
    asked_by,
)

Loss = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Term:
    """A loss, its weight in the sum, and which features it gets."""

    loss: Loss
    """A function, a module, or a class of modules that is built from examples of its inputs."""
    weight: float = 1.0
    """Below 0 the student climbs the loss."""
    warmup_epochs: int = 0
    """The weight grows from 0 over these epochs: in epoch E it is min(E / warmup_epochs, 1) of
    itself, E counted from 1."""
    layers: Any = "last"
    """The features of a loss that asks for some: `last`, the deepest stage; `final`, the map whose
    mean goes into the classifier, in networks that name it, else `last`; `stages` (as many as both
    networks have, from the deepest), a name such as `stage2`, a module path, or a list of these;
    `{student: PATH, teacher: PATH}` where the two differ. A loss that asks for one pair is applied
    to each and summed."""

    def __post_init__(self) -> None:
        arguments.number("weight", self.weight)
        arguments.count("warmup_epochs", self.warmup_epochs, least=0)


class Objective(nn.Module):
    """Sums weighted losses.

    Args:
        terms: the losses by name. Whatever parameters a loss has among `losses.inputs.NAMES` are
            given to it; the others must have defaults.

    Raises:
        UserError: if there is no term, or a loss asks for what does not exist.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        super().__init__()
        if not terms:
            raise UserError("the objective has no term: give method.terms at least one loss")
        self.terms = dict(terms)
        self.asked = {name: asked_by(name, each.loss) for name, each in terms.items()}
        self.epoch = 1
        self.pairs: dict[str, list[Pair]] = {name: [] for name in terms}
        self.losses = nn.ModuleDict(
            {
                name: nn.ModuleList([each.loss])
                for name, each in terms.items()
                if isinstance(each.loss, nn.Module)
            }
        )

    @property
    def names(self) -> frozenset[str]:
        """All that any term asks for."""
        return frozenset[str]().union(*(asked.names for asked in self.asked.values()))

    @property
    def know(self) -> list[str]:
        """The names of the terms that ask for the temperature."""
        return [name for name, each in self.asked.items() if "temperature" in each.when_called]

    @property
    def needs_teacher(self) -> bool:
        """True if a term asks for inputs that only distillation has, features included."""
        return self.taps or bool(FROM_TEACHER & self.names)

    @property
    def taps(self) -> bool:
        """True if a term asks for more of the teacher than its logits."""
        return bool(self.names & (FEATURE | FEATURES | EMBEDDING | {HEAD}))

    @property
    def strong(self) -> bool:
        """True if a term asks for the logits of a second, strongly augmented view."""
        return bool(self.names & STRONG)

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch, counted from 1, for the terms that warm up."""
        self.epoch = epoch

    def prepare(
        self, example: LossInputs, pairs: Mapping[str, Sequence[Pair]] | None = None
    ) -> None:
        """Build the losses that have weights, and call each loss once.

        Args:
            example: of a few instances; all that the losses ask for.
            pairs: the features of each term that asks for some.

        Raises:
            UserError: if a loss does not fit the pair of networks or the data, naming the loss.
        """
        for name, found in (pairs or {}).items():
            self.pairs[name] = list(found)
        taught = example.teacher_logits
        if taught is not None and taught.shape != example.student_logits.shape:
            raise UserError(
                f"the teacher gives {taught.shape[1]} logits and the student "
                f"{example.student_logits.shape[1]}: both must know the same classes"
            )
        moves = False
        for name in self.terms:
            for need in sorted(self.asked[name].needed):
                if example.named(need, self.pairs[name]) is None:
                    raise UserError(
                        f"loss {name} needs {need}, which this run does not have: choose another "
                        f"method, or leave it out by ~method.terms.{name}"
                    )
            with _naming(name):
                if self.asked[name].builds:
                    made = [self._build(name, one, example) for one in self._each(name)]
                    self.losses[name] = nn.ModuleList(made)
            value = self._rehearse(name, example)
            moves |= self.terms[name].weight != 0 and _reaches_student(value, example)
        if example.student_logits.requires_grad and not moves:
            raise UserError(
                f"loss {', '.join(self.terms)}: nothing reaches the student, for what it returned "
                "has no gradient: compute it from the student's tensors, without detaching them, "
                "and give it a weight"
            )

    def rehearse(self, example: LossInputs) -> None:
        """Call each loss once, with its weights and all random generators left as they were.

        Raises:
            UserError: if a loss does not fit, naming it.
        """
        for name in self.terms:
            self._rehearse(name, example)

    def forward(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the weighted sum, and each term of it: a loss times its weight, detached."""
        with torch.autocast(inputs.student_logits.device.type, enabled=False):
            values = self.values(inputs)
        terms = {name: self._weight(self.terms[name]) * each for name, each in values.items()}
        total = sum(terms.values())
        assert isinstance(total, Tensor)
        return total, {name: each.detach() for name, each in terms.items()}

    def values(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Return the value of each term's loss by name, not weighted; see `engine.compile`."""
        return {name: self._value(name, inputs) for name in self.terms}

    def tempered(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Return the weighted sum of the terms that know the temperature, with its gradient.

        It leaves no trace: losses that remember, and random numbers, stay as they were.
        """
        values: list[Tensor] = []
        for name in self.know:
            with self._aside(name, inputs):
                values.append(self._weight(self.terms[name]) * self._value(name, inputs))
        return torch.stack(values).sum()

    @contextmanager
    def _aside(self, name: str, inputs: LossInputs) -> Generator[None]:
        """Call a copy of a loss, and leave random numbers where they are.

        The loss itself comes back: its parameters are those that an optimiser has.
        """
        device = inputs.student_logits.device
        own = self.losses[name] if name in self.losses else None  # noqa: SIM401, it has no get
        if own is not None:
            self.losses[name] = copy.deepcopy(own)
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                yield
        finally:
            if own is not None:
                self.losses[name] = own

    def _weight(self, term: Term) -> float:
        share = min(self.epoch / term.warmup_epochs, 1.0) if term.warmup_epochs else 1.0
        return share * term.weight

    def _each(self, name: str) -> list[list[Pair]]:
        """Return the pairs of each call of a loss: one by one if it asks for one."""
        pairs = self.pairs[name]
        return [[pair] for pair in pairs] if self.asked[name].names & FEATURE else [pairs]

    def _value(self, name: str, inputs: LossInputs) -> Tensor:
        called = self.asked[name].when_called
        built = cast(nn.ModuleList, self.losses[name]) if name in self.losses else None
        values: list[Tensor] = []
        for number, pairs in enumerate(self._each(name)):
            loss = built[number % len(built)] if built else self.terms[name].loss
            values.append(loss(**{each: inputs.named(each, pairs) for each in called}))
        return sum(values[1:], start=values[0])

    def _rehearse(self, name: str, example: LossInputs) -> Tensor:
        with self._aside(name, example), _naming(name):
            value: Any = self._value(name, example)
        if not isinstance(value, Tensor) or value.dim() != 0:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"loss {name} returned {shape}: return one number, the mean over instances"
            )
        return value

    def _build(self, name: str, pairs: list[Pair], example: LossInputs) -> nn.Module:
        given = {each: example.named(each, pairs) for each in self.asked[name].when_built}
        made: Any = self.terms[name].loss(**given)
        return made.to(example.student_logits.device)


def _reaches_student(value: Tensor, example: LossInputs) -> bool:
    """Return whether any input from the student has a gradient by the loss."""
    maybe = (example.student_logits_strong, example.student_embedding, example.student_loss)
    given = [example.student_logits, *example.student_maps.values()]
    given += [each for each in maybe if each is not None]
    wanted = [each for each in given if each.requires_grad]
    if not wanted or not value.requires_grad:
        return False
    found: Any = torch.autograd.grad(value, wanted, allow_unused=True, retain_graph=True)
    return any(each is not None for each in found)


@contextmanager
def _naming(name: str) -> Generator[None]:
    """Name the loss in what its own code raises about its inputs."""
    try:
        yield
    except UserError as error:
        raise UserError(f"loss {name}: {error}") from None
    except Exception as error:  # a user's own loss may raise anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"loss {name} does not fit this teacher, student and data: {reason}"
        ) from error
