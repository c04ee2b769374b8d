"""The store of a teacher's logits, filled ahead of training, looked at, verified and removed."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rlkd.config.compose import configure
from rlkd.config.overrides import path_value
from rlkd.config.settings import asks_for_store
from rlkd.engine import build
from rlkd.errors import UserError, did_you_mean
from rlkd.reporting.escaping import say
from rlkd.teacher_cache.store import Store
from rlkd.teacher_cache.store import remove as remove_store
from rlkd.teacher_cache.stored import StoredTeacher

_BATCH = 256
_LIVE = 1000
"""Rows that `verify` has the teacher compute again."""


def cache(words: Sequence[str], console: Console) -> None:
    """Do what the first word says with a store.

    Args:
        words: `build`, `info`, `verify` or `remove`; then the folder of a store, or settings.
        console: where to report.

    Raises:
        UserError: for what the user can fix.
    """
    deeds = {"build": _build, "info": _info, "verify": _verify, "remove": _remove}
    if not words or words[0] not in deeds:
        hint = did_you_mean(words[0], deeds) if words else ""
        raise UserError(f"rlkd cache: {hint}give one of {', '.join(deeds)}, then a folder")
    deeds[words[0]](list(words[1:]), console)


def _build(words: list[str], console: Console) -> None:
    """Fill a store with all views of the images of a run."""
    stored, _ = _of_run(words)
    store = stored.store
    if not store.records.writable:
        raise UserError(f"{store.folder} cannot be written: change its permissions, or copy it")
    wanted = stored.absent(_BATCH)
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("time left"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("views", total=sum(len(rows) for rows, _ in wanted))
        stored.fill(wanted, lambda count: progress.advance(task, count))
    say(console, _filled(store))


def _info(words: list[str], console: Console) -> None:
    """Say what a store is of, and how full it is."""
    store = _found(words, "info")
    for name, value in store.identity.items():
        say(console, f"{name}: {value}")
    say(console, _filled(store))


def _verify(words: list[str], console: Console) -> None:
    """See whether each row is whole; with settings, whether the teacher computes the same."""
    if any("=" in each for each in words):
        stored, precision = _of_run(words, made=True)
        store = stored.store
        again = stored.verify(precision, count=_LIVE)
        say(console, f"the teacher computes {again} of the rows again as they are kept")
    else:
        store = _found(words, "verify")
    damaged = sum(map(len, store.records.damaged()))
    if damaged:
        raise UserError(
            f"{store.folder}: {damaged} of {store.records.count()} rows are damaged; a run, or "
            "`rlkd cache build`, computes them again"
        )
    say(console, f"every row that is there is whole; {_filled(store)}")


def _remove(words: list[str], console: Console) -> None:
    """Remove a store."""
    folder = _folder(words, "remove")
    remove_store(folder)
    say(console, f"removed {folder}")


def _of_run(words: list[str], *, made: bool = False) -> tuple[StoredTeacher, str]:
    """Return the store of a run that settings describe, and the run's precision.

    Args:
        words: the settings.
        made: whether it must be there already.
    """
    config = configure(words)
    if config.teacher.name is None:
        raise UserError("a store is of a teacher: give teacher=resnet56, say")
    if not asks_for_store(config.teacher.get("cache")):
        raise UserError("teacher.cache is missing: give teacher.cache=DIR, a folder")
    options = build.trainer_options(config)
    options.use_threads()
    if made and str(config.teacher.cache) != "true":
        Store.found(Path(str(config.teacher.cache)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "teacher.cache keeps logits")  # said below
        prepared = build.task(config).prepare(config, options)
    prepared.module.to(options.device)
    stored = prepared.stored
    if stored is None and config.task.get("mix"):
        raise UserError(
            f"task.mix={config.task.mix} has the teacher see mixed images, which no store keeps: "
            "leave it out"
        )
    if stored is None:
        raise UserError(
            f"method={config.chosen.method} asks for the teacher's features, which no store keeps: "
            "give method=kd"
        )
    return stored, options.precision


def _found(words: list[str], deed: str) -> Store:
    return Store.found(_folder(words, deed))


def _folder(words: list[str], deed: str) -> Path:
    if len(words) != 1:
        raise UserError(f"rlkd cache {deed}: give one folder, rlkd cache {deed} DIR")
    return Path(path_value("teacher.cache", words[0].removeprefix("teacher.cache=")) or "")


def _filled(store: Store) -> str:
    count, rows = store.records.count(), store.records.rows
    return (
        f"{count:,} of {rows:,} rows are there ({100 * count / rows:.1f} %), "
        f"{store.bytes_on_disk / 2**20:,.1f} MiB on disk, {store.bytes_when_full / 2**20:,.1f} MiB "
        f"when full: {store.folder}"
    )
