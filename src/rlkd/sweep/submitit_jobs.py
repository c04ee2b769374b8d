"""Runs as jobs, through submitit: processes of this machine, or those of a SLURM cluster."""

import importlib
import io
import os
import re
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rlkd.config.compose import as_yaml
from rlkd.config.settings import trust, trusted_by
from rlkd.engine.run import attempt
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.shared_data import loaded_once
from rlkd.engine.signals import Interrupted, interrupts_held_back
from rlkd.errors import UserError, one_line
from rlkd.regular_files import open_regular
from rlkd.reporting.escaping import say, say_trace
from rlkd.sweep.plan import LauncherOptions, Planned, message_of
from rlkd.text_files import read_object, write_object

_POLL_SECONDS = 1.0
_SIGNAL_VARIABLE = "SUBMITIT_PREEMPT_SIGNAL"
"""Says which signal puts a job back into the queue; on SIGUSR1 a run saves its checkpoint."""
_GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"
_GOING_ON = (
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED"),
    *("PREEMPTED", "REQUEUE"),
)
"""How SLURM's states of a job begin that it has not ended in, or that it is started again from."""
_UNTIL_KNOWN = 600.0
"""Seconds in which SLURM's accounting may not know a job yet."""
_UNTIL_SEEN = 15.0
"""Seconds in which a slow file system shows what a job that has ended wrote."""
_LOG_END = 2**14
"""Bytes of a log in which its last line is looked for."""
_JOB_ID = re.compile(r"\d{1,18}(_\d{1,9})?")
_OF_A_JOB = re.compile(r"\d+(_\d+)?_(submitted\.pkl|\d+_result\.(pkl|json))(\.save_tmp)?")
"""The names of submitit's pickles, and of our outcomes."""
_UNTIL_KILLED = 60.0
"""Seconds that a job waits to be killed by SLURM, which allows it 30 unless set otherwise."""


@dataclass(frozen=True)
class RunCells:
    """Does some runs one after another: what a job calls.

    On SIGUSR1 a run saves its checkpoint and stops, and the job goes back into the queue; called
    again, runs that are complete cost nothing and the one that stopped goes on. SIGTERM is what
    SLURM says before it takes the machine from a job, to start it again where it so chooses.
    """

    trusted: tuple[str, ...] = ()
    """The packages that the user trusts, for what is written of a configuration leaves them out."""

    def __call__(self, settings: Sequence[str], gpus: str | None) -> list[str | None]:
        """Do the runs of these configurations, YAML; return why each failed, None if it did not.

        Args:
            settings: the configurations.
            gpus: those that the job sees, as CUDA_VISIBLE_DEVICES has them; None for those submitit
                gives.
        """
        if gpus is not None:
            os.environ[_GPUS_VARIABLE] = gpus
        with loaded_once():
            outcomes = [self._outcome(each) for each in settings]
        if "SUBMITIT_FOLDER" in os.environ:
            paths = _submitit().JobEnvironment().paths
            write_object(_outcome_file(paths), {"outcomes": outcomes})
        return outcomes

    def checkpoint(self, settings: Sequence[str], gpus: str | None) -> Any:
        """Return what a job that is put back does next: the same."""
        return _submitit().helpers.DelayedSubmission(self, settings, gpus)

    def _outcome(self, settings: str) -> str | None:
        config = OmegaConf.create(settings)
        assert isinstance(config, DictConfig)
        trust(config, self.trusted, held_by="a run that was planned")
        try:
            error = attempt(config, Console())
        except Interrupted as interrupted:
            _hand_on(interrupted.signal)
            raise
        if error is not None:
            say_trace(Console(stderr=True), error)
        return None if error is None else message_of(error)


def _hand_on(stopped_by: signal.Signals) -> None:
    """Let submitit and SLURM do with a job what they have stopped it for."""
    if stopped_by == signal.SIGUSR1:
        # submitit's handler is back in its place: at rank 0 it puts the job back and ends this one.
        signal.raise_signal(signal.SIGUSR1)
    if stopped_by != signal.SIGINT and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        # A process that ends by itself leaves an outcome, though the job is to be started again.
        time.sleep(_UNTIL_KILLED)


@dataclass(frozen=True)
class _Submitted:
    """A job, and the folders' names of the runs that it does."""

    job: Any
    names: list[str]
    gpus: str | None = None
    """Those that a job of this machine has; None for those that submitit or SLURM gives."""


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
        UserError: if submitit is not installed, there is no such cluster here, or it refuses them.
        Interrupted: after Ctrl-C: SLURM's jobs go on, those of this machine are stopped.
    """
    by_name = {each.path.name: number for number, each in enumerate(planned)}
    complete = {name: number for name, number in by_name.items() if _complete(planned[number])}
    for number in complete.values():
        kept = RunFolder(planned[number].path).figures_alone
        # At once: it sees whether it is this run.
        error = None if kept else attempt(planned[number].config, console)
        yield number, None if error is None else message_of(error)
    if len(complete) == len(by_name):
        return
    executor = make_executor(options, folder)
    queued = _still_queued(options, folder)
    _clear(folder, queued)
    running = [each for each in queued if not by_name.keys().isdisjoint(each.names)]
    others = [each for each in queued if each not in running]
    taken = {*complete, *(name for each in running for name in each.names)}
    left = [number for name, number in by_name.items() if name not in taken]
    size = options.cells_per_job
    waiting = deque(left[start : start + size] for start in range(0, len(left), size))
    # SLURM itself keeps to array_parallelism.
    at_once = len(planned) if options.cluster == "slurm" else options.array_parallelism
    if running:
        say(console, f"jobs that go on: {_ids(running)}")
    say(console, f"jobs to submit: {len(waiting)}, their logs in {folder}")
    try:
        while waiting or running:
            count = min(len(waiting), at_once - len(running))
            if count > 0:
                next_ones = [waiting.popleft() for _ in range(count)]
                gpus = _free_gpus(options, [each.gpus for each in running], count)
                # A job that is submitted is remembered.
                with interrupts_held_back(from_children=options.cluster == "slurm"):
                    running += _submitted(executor, planned, next_ones, options, gpus)
                    _remember([*others, *running], folder)
            ended = [each for each in running if each.job.done()]
            running = [each for each in running if each not in ended]
            for each in ended:
                yield from _outcomes(each, planned, by_name)
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
        "stderr_to_stdout": True,
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
        raise _refused(options, error) from error
    return executor


def _refused(options: LauncherOptions, error: Exception) -> UserError:
    reason = one_line(error)
    return UserError(
        f"launcher.cluster={options.cluster} takes no jobs here: {reason}; correct launcher.*, "
        "or use launcher=local"
    )


def _submitit() -> Any:
    try:
        return importlib.import_module("submitit")
    except ImportError as error:
        raise UserError(
            f"launcher=submitit_... needs submitit ({error}): pip install submitit"
        ) from error


def _submitted(
    executor: Any,
    planned: Sequence[Planned],
    groups: list[list[int]],
    options: LauncherOptions,
    gpus: Sequence[str | None],
) -> list[_Submitted]:
    settings = [[as_yaml(planned[number].config) for number in group] for group in groups]
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints what it raises
            trusted = tuple(trusted_by(planned[groups[0][0]].config))
            jobs = executor.map_array(RunCells(trusted), settings, gpus)
    except (RuntimeError, OSError) as error:
        raise _refused(options, error) from error
    names = [[planned[number].path.name for number in group] for group in groups]
    return [_Submitted(*each) for each in zip(jobs, names, gpus, strict=True)]


def _free_gpus(
    options: LauncherOptions, taken: Sequence[str | None], count: int
) -> list[str | None]:
    """Return the GPUs of the next jobs of this machine: of those that this process sees.

    Each job has its own while there are enough; then those that the fewest jobs have. submitit
    gives every job the machine's first, whatever others have and this process may use.

    Args:
        options: say where jobs run, and how many GPUs each has.
        taken: the GPUs of jobs that are running.
        count: jobs to start.
    """
    visible = os.environ.get(_GPUS_VARIABLE)
    if visible is None:
        visible = ",".join(map(str, range(torch.cuda.device_count())))
    size, seen = options.gpus_per_node, visible.split(",")
    if options.cluster != "local" or size < 1:
        return [None] * count
    shares = [",".join(seen[i : i + size]) for i in range(0, max(len(seen) - size, 0) + 1, size)]
    given = list(taken)
    for _ in range(count):
        given.append(min(shares, key=given.count))
    return given[len(taken) :]


def _complete(planned: Planned) -> bool:
    return RunFolder(planned.path).scored


def _outcome_file(paths: Any) -> Path:
    """Return where a job leaves its outcome, JSON.

    submitit leaves it in a pickle too, which is never read: the folder of a comparison may be
    somebody else's, and a pickle is code.
    """
    return paths.result_pickle.with_suffix(".json")


def _clear(folder: Path, queued: Sequence[_Submitted]) -> None:
    """Remove what jobs that have ended left, lest a new one of the same number take it for its own.

    What a new job does is a pickle, found by its number. Links go too: logs are written there.
    """
    kept = tuple(f"{each.job.job_id}_" for each in queued)
    try:
        if folder.is_symlink():
            raise UserError(f"{folder} is a link: put a folder in its place, or remove it")
        for each in list(folder.iterdir()) if folder.is_dir() else []:
            old = _OF_A_JOB.fullmatch(each.name) and not each.name.startswith(kept)
            if old or each.is_symlink():
                each.unlink()
    except OSError as error:
        raise UserError(f"cannot clear {folder} ({error}): remove it") from error


def _outcomes(
    ended: _Submitted, planned: Sequence[Planned], by_name: dict[str, int]
) -> Iterator[tuple[int, str | None]]:
    """Yield how the runs of a job ended: as it says, or, if it says nothing, as they stand."""
    paths, reason = ended.job.task(0).paths, None
    failures: list[str | None] = [None] * len(ended.names)
    try:
        failures = _read_outcomes(_outcome_file(paths), len(ended.names))
    except UserError:
        reason = _reason(ended.job, paths.stdout)
    for name, failure in zip(ended.names, failures, strict=True):
        if (number := by_name.get(name)) is None:
            continue  # of an earlier sweep
        if reason is not None and not _complete(planned[number]):
            failure = reason
        yield number, None if failure is None else f"{failure} (log: {paths.stdout})"


def _read_outcomes(path: Path, count: int) -> list[str | None]:
    deadline = time.monotonic() + _UNTIL_SEEN
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    held = read_object(path, "see the job's log").get("outcomes")
    if not isinstance(held, list) or [type(each) in (str, NoneType) for each in held] != (
        [True] * count
    ):
        raise UserError(f"{path} is no outcome of {count} runs: see the job's log")
    return held


def _reason(job: Any, log: Path) -> str:
    """Return the state of a job that left no outcome, and the last line of its log."""
    try:
        with open_regular(log) as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _LOG_END, 0))
            lines = file.read(_LOG_END).decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    last, state = lines[-1].strip() if lines else "it left no outcome", job.state
    # Of a job that has ended, the accounting may know no more yet than that it began.
    return last if state.startswith((*_GOING_ON, "UNKNOWN")) else f"{state}: {last}"


def _remember(jobs: Sequence[_Submitted], folder: Path) -> None:
    names = {each.job.job_id: each.names for each in jobs}
    write_object(folder / "jobs.json", {"jobs": names})


def _still_queued(options: LauncherOptions, folder: Path) -> list[_Submitted]:
    """Return the jobs of earlier calls that SLURM has not ended yet."""
    kept = folder / "jobs.json"
    if options.cluster != "slurm" or not kept.is_file():
        return []
    young = 0 <= time.time() - kept.stat().st_mtime < _UNTIL_KNOWN
    going_on = (*_GOING_ON, "UNKNOWN") if young else _GOING_ON
    found: list[_Submitted] = []
    held = read_object(kept, "remove it once squeue shows no job of this comparison").get("jobs")
    if not isinstance(held, dict) or not all(
        _JOB_ID.fullmatch(job_id)
        and isinstance(names, list)
        and all(isinstance(each, str) for each in cast("list[Any]", names))
        for job_id, names in cast("dict[str, Any]", held).items()
    ):
        raise UserError(
            f"{kept} lists no jobs: remove it once squeue shows no job of this comparison"
        )
    for job_id, names in held.items():
        tasks = range(options.nodes * options.tasks_per_node)
        job = _submitit().SlurmJob(folder, job_id, tasks=list(tasks))
        if job.watcher.get_state(job_id, mode="force").upper().startswith(going_on):
            found.append(_Submitted(job, names))
    return found


def _ids(jobs: Sequence[_Submitted]) -> str:
    return ", ".join(str(each.job.job_id) for each in jobs)


def _left(running: Sequence[_Submitted], options: LauncherOptions) -> Interrupted:
    names = _ids(running)
    if options.cluster == "slurm":
        return Interrupted(
            signal.SIGINT, f"the same command waits for jobs {names} again; scancel ends them"
        )
    for each in running:
        each.job.cancel()
    return Interrupted(signal.SIGINT, f"jobs {names} are stopped; the same command goes on")
