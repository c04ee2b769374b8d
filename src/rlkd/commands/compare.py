"""Whole sweeps: every combination of the swept settings run, and compared seed by seed."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from rlkd.commands.importing import leaving_at_once
from rlkd.config.compose import unresolved
from rlkd.config.overrides import as_swept, parse
from rlkd.config.settings import flat, require_places, stored
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import RunsFailedError, UserError
from rlkd.reporting import Result
from rlkd.reporting.escaping import say
from rlkd.reporting.pages import comparison_table, write_comparison
from rlkd.reporting.statistics.comparison import Cell, Comparison, compare_cells
from rlkd.sweep.plan import (
    AUTO,
    LauncherOptions,
    Planned,
    jobs_of,
    launcher_and_others,
    plan,
)
from rlkd.sweep.study import STUDY, plan_study

_BASELINE, _JOBS = "baseline=", "jobs="
IMPLIED = (
    *("exploration", "published", "method.terms", "task.base_temperature"),
    *("temperature.temperature", "temperature.base_temperature"),
)
"""Settings that a swept choice may bring along: a learnt temperature its exploration, a published
method its weights and the temperature that they are for. The table says where they differ."""


def compare(overrides: Iterable[str], *, console: Console) -> Comparison:
    """Run every combination of the swept settings that is missing, and compare them.

    Every run has a folder of its own under `output`: complete ones are not repeated, and what
    stopped goes on. All hold the same images out of training, see `plan`. Seeds come last, so that
    every combination has its first seed early. A run that fails is reported in the table and does
    not stop the others.

    Args:
        overrides: Hydra's; those of several values, as `temperature=constant,rlkd`, are swept. The
            first combination is the baseline; `baseline=temperature=constant` compares each
            combination with the one that has these values and else its own. `launcher=...` says
            how runs are started; `jobs=auto`, or a number, that several run at a time here.
            `study=NAME` has its runs from a study, and `jobs=auto` unless it says otherwise: see
            `rlkd.sweep.study`.
        console: where to show progress and the table.

    Returns:
        The comparison, also written to `output` as compare.md, compare.csv, runs.csv and
        compare.html.

    Raises:
        UserError: if nothing is swept, or a combination does not compose or does not fit its
            networks and data, before any is trained.
        RunsFailedError: with the table written, and the comparison as its outcome, if runs failed.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    given = list(overrides)
    baseline = _baseline(each for each in given if each.startswith(_BASELINE))
    jobs, given_others = _jobs(each for each in given if not each.startswith(_BASELINE))
    launcher, others = launcher_and_others(given_others)
    named: frozenset[str] = frozenset()
    if any(each.startswith(f"{STUDY}=") for each in others):
        study, planned = plan_study(others)
        named, jobs = study.chosen, jobs or f"{_JOBS}{AUTO}" if launcher.cluster is None else jobs
        arms = [each.labels["arm"] for each in planned]
        baseline = baseline or {"arm": study.baseline if study.baseline in arms else arms[0]}
    else:
        planned = plan(others)
    if not planned[0].labels:
        raise UserError(
            "nothing to compare: give a setting several values, temperature=constant,rlkd"
        )
    folder = planned[0].path.parent
    title = f"rlkd compare: {folder.name}"
    command = shlex.join(["rlkd", "compare", *given])
    cells = [_cell(each) for each in planned]
    compared = partial(compare_cells, baseline=baseline, implied=IMPLIED, named=named)
    comparison = compared(cells)  # refused before any of them runs
    _require_places(planned, launcher)
    with leaving_at_once():
        from rlkd.sweep import runs  # with Lightning: what is mistyped was refused before

    with runs.held(planned, console):
        runs.tuned(planned, launcher, jobs, console)
        cells = [_cell(each) for each in planned]
        for number, failure in runs.outcomes(planned, launcher, jobs, console):
            cells[number] = _ended(cells[number], planned[number], failure)
            comparison = compared(cells)
            write_comparison(folder, comparison, title=title, command=command)
        runs.track(planned, comparison, command)
    console.print(comparison_table(comparison, title=title))
    say(console, f"everything is in {folder}")
    _require_no([cell.failure for cell in cells], comparison)
    return comparison


def multirun(overrides: Iterable[str], *, console: Console) -> dict[str, Any]:
    """Run every combination of the swept settings that is missing, a folder each.

    The folders are those of `compare`, which thus has its table at once for the same settings.

    Args:
        overrides: as for `compare`; seeds alone may be swept too.
        console: where to show progress, and a line as each run ends.

    Returns:
        The folder of all, and the folder and the result of each run.

    Raises:
        UserError: if nothing is swept, or a combination does not compose or does not fit its
            networks and data, before any is trained; or, when all have ended, if some failed.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    jobs, given = _jobs(overrides)
    launcher, others = launcher_and_others(given)
    planned = plan(others)
    if len(planned) == 1:
        raise UserError("--multirun is for several runs: give a setting several values, seed=0,1,2")
    folder = planned[0].path.parent
    _require_places(planned, launcher)
    with leaving_at_once():
        from rlkd.sweep import runs

    with runs.held(planned, console):
        runs.tuned(planned, launcher, jobs, console)
        outcomes = [failure for _, failure in runs.outcomes(planned, launcher, jobs, console)]
    say(console, f"everything is in {folder}")
    done = [RunFolder(each.path) for each in planned if RunFolder(each.path).complete]
    results = [{"output": str(each.path), "result": Result.read(each.result)} for each in done]
    outcome: dict[str, Any] = {"output": str(folder), "runs": results}
    _require_no(outcomes, outcome)
    return outcome


def _require_places(planned: Iterable[Planned], launcher: LauncherOptions) -> None:
    """Refuse data that are not here, but for runs that have ended or are jobs of other machines."""
    for each in planned if launcher.cluster is None else ():
        if not RunFolder(each.path).result.is_file():
            require_places(each.config)


def _require_no(failures: Sequence[str | None], outcome: object) -> None:
    found = [each for each in failures if each is not None]
    if found:
        raise RunsFailedError(
            f"{len(found)} of {len(failures)} runs failed, the first with: {found[0]}", outcome
        )


def _jobs(given: Iterable[str]) -> tuple[str | None, list[str]]:
    """Part `jobs=...` from the other overrides; the last one counts."""
    overrides = list(given)
    own = [each for each in overrides if each.startswith(_JOBS)]
    for each in own:
        jobs_of(each)
    return (own[-1] if own else None), [each for each in overrides if each not in own]


def _ended(cell: Cell, planned: Planned, failure: str | None) -> Cell:
    if failure is not None:
        return replace(cell, failure=failure)
    return replace(cell, result=Result.read(RunFolder(planned.path).result))


def _baseline(given: Iterable[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for one in given:
        # A comma parts two settings where a key follows it: baseline=temperature=rlkd,method=kd.
        for word in re.split(r",(?=[\w.+/@]+=)", one.removeprefix(_BASELINE)):
            override = parse(word) if word.partition("=")[2] else None
            if override is None or override.is_sweep_override():
                raise UserError(
                    f"{one}: give values of swept settings, baseline=temperature=constant"
                )
            (found[override.key_or_group],) = as_swept(override)
    return found or None


def _cell(planned: Planned) -> Cell:
    config: DictConfig = planned.config
    try:
        held: Any = OmegaConf.to_container(stored(config), resolve=True)
    except OmegaConfBaseException as error:
        raise unresolved(error) from None
    settings = dict(flat(held))
    if planned.follows is not None:  # a path, which has names and numbers of its own
        settings.pop("temperature.like")
    return Cell(planned.labels, config.seed, config=settings, folder=str(planned.path))
