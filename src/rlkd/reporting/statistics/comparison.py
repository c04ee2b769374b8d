"""A comparison of runs: combinations over their seeds, checked, and tested against a baseline."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rlkd.errors import UserError
from rlkd.reporting.results.record import RunRecord
from rlkd.reporting.results.result import Result
from rlkd.reporting.results.scores import Kind, kind_of
from rlkd.reporting.statistics.paired_test import PairedDifference, holm, paired_difference
from rlkd.reporting.statistics.same_settings import differing_settings

DONE = "done"
NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a comparison, or the place where it is missing.

    Raises:
        ValueError: The cell has both a result and a failure.
    """

    labels: Mapping[str, str]
    """Swept key to its value here, such as method to kd."""
    seed: int
    """The run's seed, by which it is paired."""
    result: Result | None = None
    """Its figures; None where it was not run or failed."""
    failure: str | None = None
    """Why there is no result; None where there is one, and where the run was not made."""
    config: Mapping[str, object] | None = None
    """The composed configuration, dotted key to value; None where it is not known."""
    folder: str | None = None
    """The run's folder; None where it is not known."""

    def __post_init__(self) -> None:
        if self.result is not None and self.failure is not None:
            raise ValueError(f"{self.name}: a cell has a result or a failure, not both")

    @property
    def name(self) -> str:
        """The overrides that make this run."""
        swept = [f"{key}={value}" for key, value in self.labels.items()]
        return " ".join([*swept, f"seed={self.seed}"])

    @property
    def headline(self) -> float | None:
        """The test split's headline after the last epoch, a fraction; None where not known."""
        if self.result is None or not math.isfinite(self.result.test.headline):
            return None
        return self.result.test.headline

    @property
    def reason(self) -> str | None:
        """Why the run failed, in one line; None where it did not."""
        if self.result is not None and self.headline is None:
            return f"the run diverged, its last epoch has no {self.result.test.noun}"
        return None if self.failure is None else " ".join(self.failure.split())

    @property
    def state(self) -> str:
        """Done, not run, or failed and why."""
        if self.reason is not None:
            return f"failed: {self.reason}"
        return NOT_RUN if self.result is None else DONE


@dataclass(frozen=True, slots=True)
class Combination:
    """One value of every swept key, over its seeds."""

    labels: Mapping[str, str]
    """Swept key to value."""
    cells: tuple[Cell, ...]
    """Its runs and the places of those that are missing, in the order given."""
    is_baseline: bool
    """Others are compared with this one."""
    n: int
    """Number of runs that have a headline; the figures below are theirs."""
    mean: float | None
    """Mean headline of the test split after the last epoch, a fraction; None without a run."""
    std: float | None
    """Sample standard deviation (divisor n - 1), a fraction; None for fewer than two runs."""
    images_per_second: float | None
    """Training images a second, median over the runs; None where it is not known."""
    relative_speed: float | None
    """That median over the baseline's, 1 for the baseline; None where either is not known."""
    difference: PairedDifference | None
    """The difference to the baseline; None for the baseline, and where no seed is shared."""

    @property
    def name(self) -> str:
        """The values, in words."""
        return ", ".join(self.labels.values()) or "all runs"

    @property
    def missing(self) -> str:
        """How many runs failed or were not made, in words; empty where all are there."""
        failed = sum(cell.reason is not None for cell in self.cells)
        absent = len(self.cells) - self.n - failed
        counts = ((failed, "failed"), (absent, NOT_RUN))
        if self.n == 0:
            only = [words for count, words in counts if count]
            return only[0] if len(only) == 1 else f"{failed} failed, {absent} {NOT_RUN}"
        of = f" of {len(self.cells)} "
        return ", ".join(f"{count}{of}{words}" for count, words in counts if count)

    @property
    def verdict(self) -> str:
        """The verdict on the combination against its baseline, and how many runs are missing."""
        if self.n == 0:
            return f"baseline, {self.missing}" if self.is_baseline else self.missing
        if self.is_baseline:
            words = "baseline"
        elif self.difference is None:
            words = "no seed shared with the baseline"
        else:
            words = self.difference.verdict
            if 2 <= self.difference.n < self.n:
                words += f" (over {self.difference.n} shared seeds)"
        return f"{words}; {self.missing}" if self.missing else words


@dataclass(frozen=True, slots=True)
class Comparison:
    """A sweep, each combination compared with its baseline."""

    keys: tuple[str, ...]
    """The swept keys, without the seed."""
    rows: tuple[Combination, ...]
    """The combinations, in the order in which they are first met."""
    baseline: Mapping[str, str]
    """Swept key to the baseline's value; a key that is left out has each combination's own."""
    implied: tuple[str, ...]
    """Settings besides the swept ones that differ between combinations, as their choices want."""
    kind: Kind
    """The kind of scores that all runs have; that of classification before any run has ended."""

    @property
    def cells(self) -> list[Cell]:
        """Every run and every place of a missing one, combination by combination."""
        return [cell for row in self.rows for cell in row.cells]

    @property
    def tested(self) -> list[PairedDifference]:
        """The differences for which there is a test."""
        found = [row.difference for row in self.rows if row.difference is not None]
        return [each for each in found if each.p is not None]


def compare_arms(
    arms: Mapping[str, Sequence[RunRecord]], baseline: str | None = None
) -> Comparison:
    """Compare arms, each of one configuration and several seeds, with one of them.

    Args:
        arms: A label to the runs that share it.
        baseline: The label of the arm that the others are compared with; None takes the first.

    Raises:
        UserError: See `compare_cells`.
    """
    cells = [
        Cell({"arm": label}, run.result.seed, run.result, folder=str(run.folder))
        for label, runs in arms.items()
        for run in runs
    ]
    return compare_cells(cells, None if baseline is None else {"arm": baseline})


def compare_cells(
    cells: Sequence[Cell],
    baseline: Mapping[str, str] | None = None,
    *,
    implied: Collection[str] = (),
    named: Collection[str] = (),
) -> Comparison:
    """Compare the combinations of a sweep, seed by seed, with a baseline among them.

    Args:
        cells: The runs and the places of missing ones, all with the same swept keys.
        baseline: Swept key to the baseline's value; None takes the first combination. Keys that
            are left out give each combination the baseline with its own values of them:
            temperature=constant compares every method's temperatures with that method's constant.
        implied: Configuration keys, with all below them, that a swept choice may set besides its
            own, such as the probe that a learnt temperature holds out. They may differ between
            combinations, not between the seeds of one.
        named: Configuration keys, with all below them, that the labels stand for where these are
            names, as those of a study's arms are. They may differ alike.

    Raises:
        UserError: There is no cell; the swept keys are not the same in all; a seed occurs twice in
            a combination, or is not that of its result; the runs are of two kinds of task; the
            baseline is not among the combinations; or two runs differ in a setting that was not
            swept.
    """
    combinations = _grouped(cells)
    kind = kind_of((cell.name, cell.result.test) for cell in cells if cell.result is not None)
    keys = tuple(cells[0].labels)
    base = _checked(list(combinations), keys, baseline)
    based = {values: _of(values, keys, base) for values in combinations}
    settings = {
        values: [(cell.name, cell.seed, cell.config) for cell in found if cell.config is not None]
        for values, found in combinations.items()
    }
    first = next(iter(based.values()))
    differing = differing_settings(
        [settings[first], *(runs for values, runs in settings.items() if values != first)],
        swept=(*keys, *named),
        implied=implied,
    )
    rows = [
        _combination(
            dict(zip(keys, values, strict=True)),
            found,
            combinations[based[values]],
            is_baseline=values == based[values],
        )
        for values, found in combinations.items()
    ]
    return Comparison(keys, _corrected(rows), base, differing, kind)


def _grouped(cells: Sequence[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    if not cells:
        raise UserError("there is nothing to compare; name at least one run")
    combinations: dict[tuple[str, ...], list[Cell]] = {}
    keys = tuple(cells[0].labels)
    for cell in cells:
        if set(cell.labels) != set(keys):
            raise UserError(
                f"{cell.name!r} does not have the swept keys of {cells[0].name!r}; give every run "
                "a value for each"
            )
        if cell.result is not None and cell.result.seed != cell.seed:
            raise UserError(
                f"the result of {cell.name!r} was made with seed {cell.result.seed}; repeat the "
                "run or name its own folder"
            )
        found = combinations.setdefault(tuple(cell.labels[key] for key in keys), [])
        if any(other.seed == cell.seed for other in found):
            raise UserError(f"{cell.name!r} occurs twice; name each run once")
        found.append(cell)
    return combinations


def _checked(
    combinations: Sequence[tuple[str, ...]],
    keys: tuple[str, ...],
    baseline: Mapping[str, str] | None,
) -> Mapping[str, str]:
    """Return the baseline, of which every combination has one."""
    if baseline is None:
        return dict(zip(keys, combinations[0], strict=True))
    for key in baseline:
        if key not in keys:
            raise UserError(
                f"the baseline names {key!r}, which is not swept; choose from: {', '.join(keys)}"
            )
    for values in combinations:
        wanted = _of(values, keys, baseline)
        if wanted not in combinations:
            known = "; ".join(_words(keys, values) for values in combinations)
            raise UserError(
                f"baseline {_words(keys, wanted)!r} is not among the combinations; choose one of: "
                f"{known}"
            )
    return baseline


def _of(
    values: tuple[str, ...], keys: tuple[str, ...], baseline: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the values of a combination's baseline: those named, and otherwise its own."""
    return tuple(baseline.get(key, value) for key, value in zip(keys, values, strict=True))


def _words(keys: tuple[str, ...], values: tuple[str, ...]) -> str:
    return " ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))


def _combination(
    labels: Mapping[str, str], cells: Sequence[Cell], base: Sequence[Cell], *, is_baseline: bool
) -> Combination:
    own, other = _headlines(cells), _headlines(base)
    shared = [seed for seed in own if seed in other]
    difference = None
    if shared and not is_baseline:
        pairs = [own[seed] for seed in shared], [other[seed] for seed in shared]
        difference = paired_difference(*pairs, shared)
    speed, base_speed = _speed(cells), _speed(base)
    values = list(own.values())
    return Combination(
        labels=labels,
        cells=tuple(cells),
        is_baseline=is_baseline,
        n=len(values),
        mean=statistics.fmean(values) if values else None,
        std=statistics.stdev(values) if len(values) > 1 else None,
        images_per_second=speed,
        relative_speed=speed / base_speed if speed and base_speed else None,
        difference=difference,
    )


def _headlines(cells: Sequence[Cell]) -> dict[int, float]:
    return {cell.seed: cell.headline for cell in cells if cell.headline is not None}


def _speed(cells: Sequence[Cell]) -> float | None:
    results = [
        cell.result for cell in cells if cell.result is not None and cell.headline is not None
    ]
    known = [r.images_per_second for r in results if math.isfinite(r.images_per_second)]
    return statistics.median(known) if known else None


def _corrected(rows: Sequence[Combination]) -> tuple[Combination, ...]:
    tested = {i: row.difference.p for i, row in enumerate(rows) if row.difference is not None}
    known = {i: p for i, p in tested.items() if p is not None}
    corrected = dict(zip(known, holm(list(known.values())), strict=True))
    return tuple(
        replace(row, difference=replace(row.difference, p_corrected=corrected[i]))
        if i in corrected and row.difference is not None
        else row
        for i, row in enumerate(rows)
    )
