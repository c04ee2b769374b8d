"""Steps that take turns, timed one by one and told apart by their kind."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from rlkd.exploration import Explorer
from rlkd.temperature import TemperatureSource
from rlkd.training.module import StudentModule


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
        now = (0 if self._source is None else self._source.updates, self._observed)
        before, self._seen = self._seen, now
        return now[0] - before[0], now[1] - before[1]


class Step(Protocol):
    """Training steps that can be told apart."""

    kinds: Kinds

    def __call__(self, count: int) -> None:
        """Do some steps."""


class Using:
    """The steps of one training, by one of the sources that take turns in it.

    All else is the same objects at the same places in memory: networks, optimiser, loader.

    Args:
        training: the steps.
        module: what is trained in them.
        temperature: the source.
        explorer: None where the source has none.
    """

    def __init__(
        self,
        training: Callable[[int], None],
        module: StudentModule,
        temperature: TemperatureSource,
        explorer: Explorer | None,
    ) -> None:
        self._training, self._module = training, module
        self._temperature, self._explorer = temperature, explorer
        self.kinds = Kinds(temperature)

    def __call__(self, count: int) -> None:
        """Do some steps."""
        self._module.temperature, self._module.explorer = self._temperature, self._explorer
        vars(self._module)["_source_updates"] = self._temperature.updates
        self._training(count)


@dataclass(frozen=True)
class Seconds:
    """What steps took, and the kind of each."""

    taken: list[float] = field(default_factory=list[float])
    kinds: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def typical(self) -> float:
        """Return the mean, steps of each kind taken at their median: no outlier counts."""
        medians = [len(each) * statistics.median(each) for each in self._by_kind()]
        return sum(medians) / len(self.taken)

    def resampled(self, generator: random.Random) -> float:
        """Return `typical` of as many steps of each kind, drawn from them with replacement."""
        medians = [
            len(each) * statistics.median(generator.choices(each, k=len(each)))
            for each in self._by_kind()
        ]
        return sum(medians) / len(self.taken)

    def _by_kind(self) -> list[list[float]]:
        found: dict[tuple[int, int], list[float]] = {}
        for kind, value in zip(self.kinds, self.taken, strict=True):
            found.setdefault(kind, []).append(value)
        return list(found.values())


def time_in_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, Seconds]:
    """Let variants take turns step by step, in a new order every round."""
    seconds = {name: Seconds() for name in steps}
    for one in steps.values():
        one(2)
        one.kinds.last()
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(steps), len(steps)):
            began = time.perf_counter()
            steps[name](1)
            seconds[name].taken.append(time.perf_counter() - began)
            seconds[name].kinds.append(steps[name].kinds.last())
    return seconds


def take_turns(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Return the typical seconds of a step of each variant; see `time_in_turns`."""
    return {name: each.typical() for name, each in time_in_turns(steps, rounds).items()}


def standard_error(numerator: Seconds, denominator: Seconds, *, resamples: int = 500) -> float:
    """Return the standard error of the ratio of two typical steps, by the bootstrap."""
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
        The milliseconds of a plain step, those that the source adds, the ratio of a step by it to
        a plain one, and the standard error of the ratio.
    """
    assert module.temperature is not None
    seconds = time_in_turns(
        {
            "plain": Using(training, module, plain, None),
            "own": Using(training, module, module.temperature, module.explorer),
        },
        rounds,
    )
    plain_ms, own_ms = (1e3 * seconds[name].typical() for name in ("plain", "own"))
    return {
        "plain_ms": plain_ms,
        "added_ms": own_ms - plain_ms,
        "ratio": own_ms / plain_ms,
        "standard_error": standard_error(seconds["own"], seconds["plain"]),
    }
