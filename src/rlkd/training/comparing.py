"""Whole comparisons: every combination of the swept settings, run, paired by seed and told."""

import shlex
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from rlkd.errors import UserError
from rlkd.reporting.compare import compare_cells
from rlkd.reporting.comparison import Cell, Comparison
from rlkd.reporting.comparison_page import comparison_table, write_comparison
from rlkd.training.checkpoints import Interrupted
from rlkd.training.compose import choice, configure, sweep, unresolved
from rlkd.training.run import run

_BASELINE = "baseline="
IMPLIED = ("probe", "exploration", "published", "method.terms")
"""Settings that a swept choice may bring along: a learnt temperature its probe, a published one
its weight. The table says where they differ."""


def compare(overrides: Iterable[str], *, console: Console) -> Comparison:
    """Run every combination of the swept settings that is missing, and compare them.

    Every run has a folder of its own under `output`: complete ones are not repeated, and what
    stopped goes on. Seeds come last, so that every combination has its first seed early. A run that
    fails is told in the table and does not stop the others.

    Args:
        overrides: Hydra's; those of several values, as `temperature=constant,rlkd`, are swept. The
            first combination is the baseline; `baseline=temperature=constant` compares each
            combination with the one that has these values and else its own.
        console: where to show progress and the table.

    Returns:
        The comparison, also written to `output` as compare.md, compare.csv, runs.csv and
        compare.html.

    Raises:
        UserError: if nothing is swept, or a combination does not compose; or if every run failed.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    given = list(overrides)
    baseline = _baseline(each for each in given if each.startswith(_BASELINE))
    planned = _planned([each for each in given if not each.startswith(_BASELINE)])
    folder = planned[0][1].parent
    title = f"rlkd compare: {folder.name}"
    command = shlex.join(["rlkd", "compare", *given])
    cells = [_cell(labels, config, path) for labels, path, config in planned]
    comparison = compare_cells(cells, baseline, implied=IMPLIED)  # refused before any of them runs
    for number, (_, _, config) in enumerate(planned):
        console.rule(f"{number + 1} of {len(planned)}: {cells[number].name}")
        try:
            result = run(config, console=console)
            cells[number] = replace(cells[number], result=result)
        except Interrupted:
            raise
        except Exception as error:  # one run's failure, out of memory too, is no other's
            told = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
            console.print(f"failed: {told}", soft_wrap=True, markup=False)
            cells[number] = replace(cells[number], failure=told)
        comparison = compare_cells(cells, baseline, implied=IMPLIED)
        write_comparison(folder, comparison, title=title, command=command)
    console.print(comparison_table(comparison, title=title))
    console.print(f"everything is in {folder}", soft_wrap=True)
    if all(cell.failure for cell in cells):
        raise UserError(f"every run failed, the first with: {cells[0].failure}")
    return comparison


def _baseline(given: Iterable[str]) -> dict[str, str] | None:
    values = [each for one in given for each in one.removeprefix(_BASELINE).split(",")]
    found = {key: value for key, _, value in (each.partition("=") for each in values)}
    if not all(found.values()):
        raise UserError(
            f"baseline={','.join(values)}: give values of swept settings, "
            "baseline=temperature=constant"
        )
    return found or None


def _planned(overrides: list[str]) -> list[tuple[dict[str, str], Path, DictConfig]]:
    swept, single = sweep(overrides)
    seeds = swept.pop("seed", None)
    if not swept:
        raise UserError(
            "nothing to compare: give a setting several values, temperature=constant,rlkd"
        )
    common = configure(single)
    seeds = seeds or [str(common.seed)]
    named = any(each.startswith("output=") for each in single)
    names = [choice(common, key) for key in ("data", "teacher", "student")]
    folder = Path(common.output) if named else Path("runs") / "_".join(["compare", *names])
    planned: list[tuple[dict[str, str], Path, DictConfig]] = []
    for seed, *values in product(seeds, *swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        config = configure(
            [*single, *(f"{key}={each}" for key, each in chosen.items()), f"seed={seed}"]
        )
        labels = {key.lstrip("+"): value for key, value in chosen.items()}
        words = [f"{key}={value}" for key, value in (*labels.items(), ("seed", seed))]
        path = folder / ",".join(each.replace("/", "_") for each in words)
        config.output = str(path)
        planned.append((labels, path, config))
    return planned


def _cell(labels: dict[str, str], config: DictConfig, path: Path) -> Cell:
    try:
        held: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise unresolved(error) from None
    return Cell(labels, config.seed, config=dict(_flat(held)), folder=str(path))


def _flat(held: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in held.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
