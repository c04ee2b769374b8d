"""What tests of runs as jobs share."""

from pathlib import Path

from tests.support.runs import tiny

from rlkd.sweep.plan import LauncherOptions, launcher_and_others


def grid(teacher: Path, output: Path, *more: str) -> list[str]:
    """Overrides of a sweep of small runs, to which temperature and seed may be given."""
    kept = [each for each in tiny(teacher, output) if not each.startswith(("temperature", "seed"))]
    return [*kept, *more]


def launcher(*overrides: str) -> LauncherOptions:
    return launcher_and_others(overrides)[0]
