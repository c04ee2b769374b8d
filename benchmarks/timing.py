"""Steps that take turns, timed one by one and told apart by their kind."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rlkd.engine.module import StudentModule
from rlkd.exploration import Explorer
from rlkd.temperature import TemperatureSource


def now() -> float:
    """Return the time in seconds, when all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Kinds:
    """Tells the kinds of steps apart: the source learns in some and measures in some.

    Args:
        source: whose steps are told apart.
    """

    def __init__(self, source: TemperatureSource | None) -> None:
        self._source = source
        self._observed, self._seen = 0, (0, 0)
        if source is not None:
            observe = source.observe

            def counting(performance_after: Tensor) -> None:
                self._observed += 1
                observe(performance_after)

            vars(source)["observe"] = counting

    def last(self) -> tuple[int, int]:
        """Return how often the source has learnt and measured since the last call."""
        counted = (0 if self._source is None else self._source.updates, self._observed)
        before, self._seen = self._seen, counted
        return counted[0] - before[0], counted[1] - before[1]


class Step(Protocol):
    """Training steps that can be told apart."""

    kinds: Kinds

    def __call__(self, count: int) -> None:
        """Do some steps."""


class Inside:
    """Seconds of a module's steps in which its temperature source is asked, paid and told.

    Args:
        module: whose steps are watched from now on.
    """

    def __init__(self, module: StudentModule) -> None:
        self.seconds = 0.0
        for part in ("_temperatures", "_measure", "_record"):
            vars(module)[part] = self._timed(getattr(module, part))

    def _timed(self, part: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = now()
            result = part(*args, **kwargs)
            self.seconds += now() - began
            return result

        return timed


class Using:
    """The steps of one training, by one of the sources that take turns in it.

    All else is the same objects at the same places in memory: networks, optimiser, loader.

    Args:
        training: the steps.
        module: what is trained in them.
        inside: watches them.
        temperature: the source.
        explorer: None where the source has none.
    """

    def __init__(
        self,
        training: Callable[[int], None],
        module: StudentModule,
        inside: Inside,
        temperature: TemperatureSource,
        explorer: Explorer | None,
    ) -> None:
        self._training, self._module, self._inside = training, module, inside
        self._temperature, self._explorer = temperature, explorer
        self.kinds = Kinds(temperature)
        self.over_the_rest: list[float] = []
        """What each call took, relative to what it took outside of the source's parts."""

    def __call__(self, count: int) -> None:
        """Do some steps."""
        self._module.temperature, self._module.explorer = self._temperature, self._explorer
        vars(self._module)["_source_updates"] = self._temperature.updates
        began, before = now(), self._inside.seconds
        self._training(count)
        taken = now() - began
        self.over_the_rest.append(taken / (taken - (self._inside.seconds - before)))


@dataclass(frozen=True)
class Measured:
    """A figure of each step, such as its seconds, and the step's kind."""

    figures: list[float] = field(default_factory=list[float])
    kinds: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def typical(self) -> float:
        """Return the mean, steps of each kind taken at their median: no outlier counts."""
        return self._mean_of_medians(lambda figures: figures)

    def resampled(self, generator: random.Random) -> float:
        """Return `typical` of as many steps of each kind, drawn from them with replacement."""
        return self._mean_of_medians(lambda figures: generator.choices(figures, k=len(figures)))

    def _mean_of_medians(self, sample: Callable[[list[float]], list[float]]) -> float:
        by_kind: dict[tuple[int, int], list[float]] = {}
        for kind, value in zip(self.kinds, self.figures, strict=True):
            by_kind.setdefault(kind, []).append(value)
        medians = (len(each) * statistics.median(sample(each)) for each in by_kind.values())
        return sum(medians) / len(self.figures)


def time_in_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, Measured]:
    """Let variants take turns step by step, in a new order every round."""
    seconds = {name: Measured() for name in steps}
    for one in steps.values():
        one(2)
        one.kinds.last()
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(steps), len(steps)):
            began = now()
            steps[name](1)
            seconds[name].figures.append(now() - began)
            seconds[name].kinds.append(steps[name].kinds.last())
    return seconds


def take_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Return the typical seconds of a step of each variant; see `time_in_turns`."""
    return {name: each.typical() for name, each in time_in_turns(steps, rounds).items()}


def standard_error(numerator: Measured, denominator: Measured, *, resamples: int = 500) -> float:
    """Return the standard error of the ratio of two typical figures, by the bootstrap."""
    generator = random.Random(0)
    ratios = (
        numerator.resampled(generator) / denominator.resampled(generator) for _ in range(resamples)
    )
    return statistics.stdev(ratios)


def what_the_source_adds(
    training: Callable[[int], None], module: StudentModule, plain: TemperatureSource, rounds: int
) -> dict[str, float]:
    """Time one training by its own source and by a plain one, in turns.

    Args:
        training: the steps.
        module: what is trained in them, with a source.
        plain: the source to compare with.
        rounds: steps of each.

    Returns:
        `plain_ms`, the milliseconds of a plain step; `ratio`, of a step by its own source to it,
        from the time in the parts of the step that know of the source, relative to the rest of
        the very step, where the machine's pace falls on both; `whole_ratio`, from whole steps,
        which also sees what the source may cost in a step outside of those parts, and is far
        noisier. With the standard error of each, in which a kind of step that was seen once has
        no part. Exploration and what is done once an epoch are in neither. On a GPU the parts are
        waited for one by one, which a training does not.
    """
    assert module.temperature is not None
    inside = Inside(module)
    steps = {
        "own": Using(training, module, inside, module.temperature, module.explorer),
        "plain": Using(training, module, inside, plain, None),
    }
    whole = time_in_turns(steps, rounds)
    parts = {
        name: Measured(steps[name].over_the_rest[-rounds:], whole[name].kinds) for name in steps
    }
    return {
        "plain_ms": 1e3 * whole["plain"].typical(),
        "ratio": parts["own"].typical() / parts["plain"].typical(),
        "standard_error": standard_error(parts["own"], parts["plain"]),
        "whole_ratio": whole["own"].typical() / whole["plain"].typical(),
        "whole_standard_error": standard_error(whole["own"], whole["plain"]),
    }
