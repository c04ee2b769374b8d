"""The runs of a sweep, done: tried, tuned, and started here or in jobs."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from rlkd.config.compose import as_yaml
from rlkd.config.options import logger_options
from rlkd.engine import build
from rlkd.engine.launch import require_one_process
from rlkd.engine.lock import locked
from rlkd.engine.run import attempt
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.shared_data import loaded_once
from rlkd.engine.trackers import tracking
from rlkd.engine.tuning import recall, tune
from rlkd.errors import UserError
from rlkd.reporting.escaping import printable, say
from rlkd.reporting.statistics.comparison import Comparison
from rlkd.sweep.plan import (
    LauncherOptions,
    Planned,
    first_of_each,
    jobs_of,
    message_of,
    refused,
    unfollowed,
)
from rlkd.sweep.side_by_side import side_by_side
from rlkd.sweep.submitit_jobs import in_jobs


@contextmanager
def held(planned: Sequence[Planned], console: Console) -> Generator[None]:
    """Have the folder of a sweep for oneself, and what its runs share loaded once.

    Raises:
        UserError: if another process writes there, or several processes do this.
    """
    require_one_process()
    first = planned[0]
    with locked(first.path.parent, first.config.lock, console), loaded_once():
        yield


def track(planned: Sequence[Planned], comparison: Comparison, command: str) -> None:
    """Show a comparison at the tracker of its runs."""
    with tracking(logger_options(planned[0].config), planned[0].path.parent) as tracker:
        tracker.start({"command": command})
        tracker.compare(comparison)


def outcomes(
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
    waves = waves_of(planned)
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
            ended = in_jobs(part, launcher, part[0].path.parent / "jobs", console)
        elif jobs is not None:
            ended = side_by_side(part, jobs_of(jobs), console)
        else:
            ended = _here(part, console)
        for place, failure in ended:
            outcome = "done" if failure is None else f"failed: {failure}"
            say(console, f"{part[place].path.name}: {outcome}")
            yield numbers[place], failure


def waves_of(planned: Sequence[Planned]) -> list[list[int]]:
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


def tuned(
    planned: Sequence[Planned], launcher: LauncherOptions, jobs: str | None, console: Console
) -> None:
    """Give all runs the settings that `trainer.tune` asks for, found once.

    Raises:
        UserError: if a setting is swept and to be found too, the first run cannot be trained, or
            the runs are jobs.
    """
    if launcher.cluster is None:
        _tune_alike(planned, threads=None if jobs is None else 1, console=console)
    elif build.trainer_options(planned[0].config).tunes:
        raise UserError(
            "trainer.tune finds what is fastest on this machine, and jobs run on others: tune one "
            "run there, and give what it finds"
        )


def _tune_alike(planned: Sequence[Planned], *, threads: int | None, console: Console) -> None:
    """Find the settings that `trainer.tune` asks for, once, and give them to all runs.

    What is compared is computed alike, and as the runs of an earlier start were.

    Args:
        planned: the runs; their configurations are changed.
        threads: of each run; None for all of torch's.
        console: where to show what was found.

    Raises:
        UserError: if a setting is swept and to be found too, or the first run cannot be trained.
    """
    configs = [each.config for each in planned]
    for each in planned:
        swept = [f"trainer.{key}" for key in build.trainer_options(each.config).tunes]
        both = [key for key in swept if key in each.labels]
        if both:
            raise UserError(
                f"{both[0]} is swept, so trainer.tune cannot choose it: name the others, such as "
                "trainer.tune=[compile]"
            )
    if recall(configs):
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        build.trainer_options(configs[0]).use_threads()
        tune(configs, partial(say, console))
    finally:
        torch.set_num_threads(before)


def _here(planned: Sequence[Planned], console: Console) -> Iterator[tuple[int, str | None]]:
    _require_trainable(planned, console)
    for number, each in enumerate(planned):
        console.rule(Text(printable(f"{number + 1} of {len(planned)}: {each.path.name}")))
        kept = RunFolder(each.path).figures_alone
        error = None if kept else attempt(each.config, console)
        yield number, None if error is None else message_of(error)


def _require_trainable(planned: Sequence[Planned], console: Console) -> None:
    """Get ready to train what is not complete yet, each combination once, and leave it at that.

    What fails here for a reason that the user cannot fix, as for want of memory, is left to the
    run itself, and reported with the others.

    Raises:
        UserError: for the first combination that does not fit its networks or its data, or whose
            folder holds a different run.
    """
    first = first_of_each(planned)
    with console.status(f"trying whether {len(first)} combinations fit their networks and data"):
        for each in first:
            try:
                _prepare(each.config)
            except UserError as error:
                raise refused(each, str(error)) from None
            except Exception:  # whatever a network of somebody's own raises
                continue


def _prepare(config: DictConfig) -> None:
    options = build.trainer_options(config)
    options.use_threads()
    build.task(config).prepare(config, options)
