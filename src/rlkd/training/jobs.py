"""Runs as jobs, through submitit: processes of this machine, or those of a SLURM cluster."""

import importlib
import json
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rlkd.errors import UserError
from rlkd.reporting.files import write_text
from rlkd.training.compose import as_yaml
from rlkd.training.planning import LauncherOptions, Planned, attempt, told
from rlkd.training.run_folder import RunFolder
from rlkd.training.stopping import Interrupted

_POLL_SECONDS = 1.0
_SIGNAL_VARIABLE = "SUBMITIT_PREEMPT_SIGNAL"
"""Says which signal puts a job back into the queue; on SIGUSR1 a run saves its checkpoint."""
_GOING_ON = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")
"""Of SLURM's states of a job, those in which it has not ended."""


class RunCells:
    """Does some runs one after another: what a job calls.

    On SIGUSR1 a run saves its checkpoint and stops, and the job goes back into the queue; called
    again, runs that are complete cost nothing and the one that stopped goes on.
    """

    def __call__(self, settings: Sequence[str]) -> list[str | None]:
        """Do the runs of these configurations, YAML; return why each failed, None if it did not."""
        return [self._outcome(each) for each in settings]

    def checkpoint(self, settings: Sequence[str]) -> Any:
        """Return what a job that is put back does next: the same."""
        return _submitit().helpers.DelayedSubmission(self, settings)

    def _outcome(self, settings: str) -> str | None:
        config = OmegaConf.create(settings)
        assert isinstance(config, DictConfig)
        try:
            error = attempt(config, Console())
        except Interrupted as interrupted:
            if interrupted.signal == signal.SIGUSR1:
                # submitit's handler is back in its place: it puts the job back and ends this one.
                signal.raise_signal(signal.SIGUSR1)
            raise
        if error is not None:
            traceback.print_exception(error)
        return None if error is None else told(error)


@dataclass(frozen=True)
class _Submitted:
    """A job, and the numbers of the runs that it does."""

    job: Any
    numbers: list[int]


def in_jobs(
    planned: Sequence[Planned], options: LauncherOptions, folder: Path, console: Console
) -> Iterator[tuple[int, str | None]]:
    """Submit runs as jobs, and yield each run's number and why it failed as jobs end.

    Runs that are complete get no job. Called again, runs whose job is still in SLURM's queue are
    waited for, not submitted a second time.

    Args:
        planned: the runs.
        options: how jobs are started.
        folder: of the jobs' files and logs.
        console: where to say what is submitted.

    Raises:
        UserError: if submitit is not installed, or there is no such cluster here.
        Interrupted: after Ctrl-C: SLURM's jobs go on, those of this machine are stopped.
    """
    numbers = list(range(len(planned)))
    complete = [each for each in numbers if _complete(planned[each])]
    for number in complete:
        error = attempt(planned[number].config, console)  # at once: it sees whether it is this run
        yield number, None if error is None else told(error)
    if len(complete) == len(planned):
        return
    executor = make_executor(options, folder)
    running = _still_queued(planned, options, folder)
    taken = {*complete, *(number for each in running for number in each.numbers)}
    left = [each for each in numbers if each not in taken]
    size = options.cells_per_job
    waiting = deque(left[start : start + size] for start in range(0, len(left), size))
    # SLURM itself keeps to array_parallelism.
    at_once = len(waiting) if options.cluster == "slurm" else options.array_parallelism
    console.print(
        f"jobs to submit: {len(waiting)}, their logs in {folder}", soft_wrap=True, highlight=False
    )
    try:
        while waiting or running:
            count = min(len(waiting), at_once - len(running))
            if count > 0:
                next_ones = [waiting.popleft() for _ in range(count)]
                running += _submitted(executor, planned, next_ones)
                _remember(planned, running, folder)
            ended = [each for each in running if each.job.done()]
            running = [each for each in running if each not in ended]
            for each in ended:
                yield from _outcomes(each, planned)
            if not ended:
                time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        raise _left(running, options) from None


def make_executor(options: LauncherOptions, folder: Path) -> Any:
    """Return what submits jobs.

    Args:
        options: how they are started.
        folder: of their files and logs.

    Raises:
        UserError: if submitit is not installed, or there is no such cluster here.
    """
    os.environ[_SIGNAL_VARIABLE] = "USR1"  # for jobs of this machine, which inherit it
    submitit = _submitit()
    shared = {
        "name": "rlkd",
        "timeout_min": options.timeout_min,
        "nodes": options.nodes,
        "gpus_per_node": options.gpus_per_node,
        "tasks_per_node": options.tasks_per_node,
        "cpus_per_task": options.cpus_per_task,
        "mem_gb": options.mem_gb,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_array_parallelism": options.array_parallelism,
        "slurm_setup": [f"export {_SIGNAL_VARIABLE}=USR1", *options.setup],
        "slurm_additional_parameters": {
            "signal": f"USR1@{options.signal_delay_s}",
            **(options.additional or {}),
        },
    }
    limit = {f"{options.cluster}_max_num_timeout": options.max_timeouts}
    try:
        executor = submitit.AutoExecutor(folder, cluster=options.cluster, **limit)
        executor.update_parameters(**{k: v for k, v in shared.items() if v is not None})
    except (RuntimeError, ValueError, NameError, AssertionError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"launcher.cluster={options.cluster} takes no jobs here: {reason}; correct launcher.*, "
            "or use launcher=local"
        ) from error
    return executor


def _submitit() -> Any:
    try:
        return importlib.import_module("submitit")
    except ImportError as error:
        raise UserError(
            f"launcher=submitit_... needs submitit ({error}): pip install 'rlkd[slurm]'"
        ) from error


def _submitted(
    executor: Any, planned: Sequence[Planned], groups: list[list[int]]
) -> list[_Submitted]:
    settings = [[as_yaml(planned[number].config) for number in group] for group in groups]
    jobs = executor.map_array(RunCells(), settings)
    return [_Submitted(job, group) for job, group in zip(jobs, groups, strict=True)]


def _complete(planned: Planned) -> bool:
    folder = RunFolder(planned.path)
    return folder.result.is_file() and folder.report.is_file()


def _outcomes(ended: _Submitted, planned: Sequence[Planned]) -> Iterator[tuple[int, str | None]]:
    """Yield how the runs of a job ended: as it says, or, if it says nothing, as they stand."""
    log = ended.job.paths.stdout
    try:
        failures = ended.job.results()[0]
    except Exception as error:  # submitit's, whatever ended the job
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        failures = [None if _complete(planned[each]) else reason for each in ended.numbers]
    for number, failure in zip(ended.numbers, failures, strict=True):
        yield number, None if failure is None else f"{failure} (log: {log})"


def _remember(planned: Sequence[Planned], running: Sequence[_Submitted], folder: Path) -> None:
    names = {each.job.job_id: [planned[k].path.name for k in each.numbers] for each in running}
    write_text(folder / "jobs.json", json.dumps(names, indent=1))


def _still_queued(
    planned: Sequence[Planned], options: LauncherOptions, folder: Path
) -> list[_Submitted]:
    """Return the jobs of an earlier call that SLURM has not ended yet."""
    kept = folder / "jobs.json"
    if options.cluster != "slurm" or not kept.is_file():
        return []
    numbers = {each.path.name: number for number, each in enumerate(planned)}
    found: list[_Submitted] = []
    for job_id, names in json.loads(kept.read_text(encoding="utf-8")).items():
        tasks = range(options.nodes * options.tasks_per_node)
        job = _submitit().SlurmJob(folder, job_id, tasks=list(tasks))
        state = job.watcher.get_state(job_id, mode="force").upper()
        if state.startswith(_GOING_ON):
            found.append(_Submitted(job, [numbers[each] for each in names if each in numbers]))
    return found


def _left(running: Sequence[_Submitted], options: LauncherOptions) -> Interrupted:
    names = ", ".join(str(each.job.job_id) for each in running)
    if options.cluster == "slurm":
        return Interrupted(
            signal.SIGINT, f"the same command waits for jobs {names} again; scancel ends them"
        )
    for each in running:
        each.job.cancel()
    return Interrupted(signal.SIGINT, f"jobs {names} are stopped; the same command goes on")
