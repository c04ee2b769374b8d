"""From the runs of a sweep to a comparison: grouped, checked, and tested against a baseline."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from rlkd.errors import UserError
from rlkd.reporting.comparable import differing_settings
from rlkd.reporting.comparison import Cell, Combination, Comparison
from rlkd.reporting.paired import holm, paired_difference
from rlkd.reporting.record import RunRecord
from rlkd.reporting.scores import kind_of


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
        swept=keys,
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
