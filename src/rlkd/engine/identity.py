"""What makes a run the one it is: the settings that can change its figures, and no others."""

import copy
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rlkd.config.settings import asks_for_store, flat

_WHERE = "where files lie; what is in the data is checked against images.json"
_READ = "how data are read: any number of readers gives the same images in the same order"
_SAVED = "how often a run reports and saves"
NO_PART = {
    "output": _WHERE,
    "lock": "what becomes of a second process",
    "logger": "where figures are shown; metrics.csv has them anyway",
    "published": "what there was to choose from; what was chosen stands in the other settings",
    "chosen": "what the choices were called; what they are stands in the other settings",
    "task.workers": _READ,
    "data.workers": _READ,
    "data.prefetch": _READ,
    "data.memory_limit_gib": _READ,
    "data.root": _WHERE,
    "data.download": _WHERE,
    "trainer.threads": "rounds sums in another order, as another processor does: a run that goes "
    "on with more is one that was never interrupted but for that",
    "trainer.tune": "what it found stands in the settings that it chose",
    "trainer.log_every_steps": _SAVED,
    "trainer.keep_checkpoints": _SAVED,
    "trainer.checkpoint_every_steps": _SAVED,
    "trainer.checkpoint_every_minutes": _SAVED,
}
"""Settings that are no part of what a run is, with the reason. All others are."""


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that make a run the one it is, of all that it has."""
    settings = copy.deepcopy(settings)
    temperature = settings.get("temperature")
    if isinstance(temperature, dict) and temperature.get("like") is not None:
        temperature["like"] = Path(temperature["like"]).name  # wherever that run's folder lies
    teacher = settings.get("teacher")
    if isinstance(teacher, dict):
        # Which rounds logits, wherever it is done.
        teacher["cache"] = "kept" if asks_for_store(teacher.get("cache")) else None
    for key in NO_PART:
        section, _, name = key.rpartition(".")
        held = settings.get(section) if section else settings
        if isinstance(held, dict):
            held.pop(name, None)
    return settings


def difference(
    one: dict[str, Any],
    other: dict[str, Any],
    defaults: Callable[[Collection[str]], Mapping[str, Any]],
) -> tuple[str, Any, Any] | None:
    """Return the first setting in which two configurations are other runs, and its two values.

    Args:
        one: the settings of a run that was begun, by an older version perhaps.
        other: those that it is to go on with.
        defaults: returns those of the second for some of its keys. A setting that the first does
            not know, of the same choices, is no difference at its default: new settings leave the
            runs of before as they were.
    """
    before, now = (dict(flat(identity(each))) for each in (one, other))
    new = [key for key in now if key not in before]
    held, chosen = one.get("chosen") or {}, other.get("chosen") or {}
    alike = bool(held) and all(chosen.get(group) == name for group, name in held.items())
    known = defaults(new) if new and alike else {}
    for key in {**before, **now}:
        if key in new and key in known and now[key] == known[key]:
            continue
        if before.get(key) != now.get(key):
            return key, before.get(key), now.get(key)
    return None
