"""Whole sweeps: every combination of the swept settings run, and compared seed by seed."""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from rlkd.config.compose import as_yaml, unresolved
from rlkd.config.options import logger_options
from rlkd.config.overrides import as_swept, parse
from rlkd.config.settings import flat, stored
from rlkd.engine import build
from rlkd.engine.lock import locked
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.shared_data import loaded_once
from rlkd.engine.trackers import tracking
from rlkd.errors import RunsFailedError, UserError
from rlkd.reporting import Result
from rlkd.reporting.escaping import printable, say
from rlkd.reporting.pages import comparison_table, write_comparison
from rlkd.reporting.statistics.comparison import Cell, Comparison, compare_cells
from rlkd.sweep.plan import (
    LauncherOptions,
    Planned,
    attempt,
    launcher_and_others,
    message_of,
    plan,
    require_one_process,
    require_trainable,
    tune_alike,
    unfollowed,
)
from rlkd.sweep.side_by_side import AUTO, jobs_of, side_by_side
from rlkd.sweep.study import STUDY, plan_study
from rlkd.sweep.submitit_jobs import in_jobs

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
    require_one_process()
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
    with locked(folder, planned[0].config.lock, console), loaded_once():
        _tune(planned, launcher, jobs, console)
        cells = [_cell(each) for each in planned]
        for number, failure in _outcomes(planned, launcher, jobs, console):
            cells[number] = _ended(cells[number], planned[number], failure)
            comparison = compared(cells)
            write_comparison(folder, comparison, title=title, command=command)
        with tracking(logger_options(planned[0].config), folder) as tracker:
            tracker.start({"command": command})
            tracker.compare(comparison)
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
    require_one_process()
    jobs, given = _jobs(overrides)
    launcher, others = launcher_and_others(given)
    planned = plan(others)
    if len(planned) == 1:
        raise UserError("--multirun is for several runs: give a setting several values, seed=0,1,2")
    folder = planned[0].path.parent
    with locked(folder, planned[0].config.lock, console), loaded_once():
        _tune(planned, launcher, jobs, console)
        outcomes = [failure for _, failure in _outcomes(planned, launcher, jobs, console)]
    say(console, f"everything is in {folder}")
    done = [each.path for each in planned if RunFolder(each.path).complete]
    runs = [{"output": str(path), "result": Result.read(RunFolder(path).result)} for path in done]
    outcome: dict[str, Any] = {"output": str(folder), "runs": runs}
    _require_no(outcomes, outcome)
    return outcome


def _require_no(failures: Sequence[str | None], outcome: object) -> None:
    found = [each for each in failures if each is not None]
    if found:
        raise RunsFailedError(
            f"{len(found)} of {len(failures)} runs failed, the first with: {found[0]}", outcome
        )


def _outcomes(
    planned: Sequence[Planned], launcher: LauncherOptions, jobs: str | None, console: Console
) -> Iterator[tuple[int, str | None]]:
    """Do the runs; yield the number of each that ends and why it failed, and report it in a line.

    Raises:
        UserError: if a combination does not fit its networks and data, before any is trained. A job
            finds that out on its own machine.
    """
    if launcher.cluster is not None and jobs is not None:
        raise UserError(
            f"{jobs} is for launcher=local: of submitit's jobs as many run at a time as "
            "launcher.array_parallelism says"
        )
    for each in planned:
        RunFolder(each.path).require_same(as_yaml(each.config))
    waves = _waves(planned)
    if jobs is not None:
        waves = [list(chain.from_iterable(waves))]  # a run waits for no more than what it follows
    for numbers in waves:
        for number in list(numbers):
            follows = planned[number].follows
            if jobs is None and follows is not None and not RunFolder(follows).result.is_file():
                numbers.remove(number)
                yield number, unfollowed(follows.name)
        part = [planned[number] for number in numbers]
        if not part:
            continue
        if launcher.cluster is not None:
            outcomes = in_jobs(part, launcher, part[0].path.parent / "jobs", console)
        elif jobs is not None:
            outcomes = side_by_side(part, jobs_of(jobs), console)
        else:
            outcomes = _here(part, console)
        for place, failure in outcomes:
            outcome = "done" if failure is None else f"failed: {failure}"
            say(console, f"{part[place].path.name}: {outcome}")
            yield numbers[place], failure


def _waves(planned: Sequence[Planned]) -> list[list[int]]:
    """Return the numbers of runs that may be done together.

    Where some follow others, they go seed by seed, and those that follow come last of their seed.
    """
    if not any(each.follows for each in planned):
        return [list(range(len(planned)))]
    waves: dict[tuple[int, bool], list[int]] = {}
    for number, each in enumerate(planned):
        waves.setdefault((each.config.seed, each.follows is not None), []).append(number)
    seeds = list(dict.fromkeys(seed for seed, _ in waves))
    return [waves[at] for seed in seeds for at in ((seed, False), (seed, True)) if at in waves]


def _tune(
    planned: Sequence[Planned], launcher: LauncherOptions, jobs: str | None, console: Console
) -> None:
    if launcher.cluster is None:
        tune_alike(planned, threads=None if jobs is None else 1, console=console)
    elif build.trainer_options(planned[0].config).tunes:
        raise UserError(
            "trainer.tune finds what is fastest on this machine, and jobs run on others: tune one "
            "run there, and give what it finds"
        )


def _here(planned: Sequence[Planned], console: Console) -> Iterator[tuple[int, str | None]]:
    require_trainable(planned, console)
    for number, each in enumerate(planned):
        console.rule(Text(printable(f"{number + 1} of {len(planned)}: {each.path.name}")))
        kept = RunFolder(each.path).figures_alone
        error = None if kept else attempt(each.config, console)
        yield number, None if error is None else message_of(error)


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
