"""The verbs that have no module of their own, each a function of its overrides and a console."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rlkd.commands import compare as comparing
from rlkd.commands.importing import leaving_at_once
from rlkd.commands.summary import print_summary
from rlkd.config.compose import ALONE, GROUPS, LAUNCHER, as_yaml, configure, options
from rlkd.config.settings import require_places
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import RunsFailedError, UserError
from rlkd.reporting.escaping import say
from rlkd.reporting.pages import comparison_rows
from rlkd.reporting.statistics.comparison import Comparison
from rlkd.sweep.study import STUDY


def distill(overrides: list[str], console: Console) -> dict[str, Any]:
    """Distil a teacher into a student; with --multirun, once for each combination of values.

    Returns:
        The run folder and its result; or the folder of several, and both of each.
    """
    overrides, several = _multirun(overrides)
    if several:
        return comparing.multirun(overrides, console=console)
    return _run(overrides, console)


def train(overrides: list[str], console: Console) -> dict[str, Any]:
    """Train on labels alone; see `distill`."""
    return distill([*ALONE, *overrides], console)


def compare(overrides: list[str], console: Console) -> dict[str, Any]:
    """Run all combinations of values and compare them.

    Returns:
        The folder, and the rows of compare.csv and of runs.csv.
    """
    try:
        return _of_comparison(comparing.compare(overrides, console=console))
    except RunsFailedError as error:
        error.outcome = _of_comparison(error.outcome)
        raise


def _of_comparison(comparison: Comparison) -> dict[str, Any]:
    folder = Path(comparison.cells[0].folder or "").parent
    return {"output": str(folder)} | comparison_rows(comparison)


def ls(overrides: list[str], console: Console) -> None:
    """List what each group, or the one named, may be set to."""
    groups = (*GROUPS, LAUNCHER, STUDY)
    for name in overrides:
        if name not in groups:
            raise UserError(f"there is no group {name}: use one of {', '.join(groups)}")
    for group in overrides or groups:
        line = Text.assemble((group, "bold"), f": {', '.join(options(group))}")
        console.print(line, soft_wrap=True)


def show(overrides: list[str], console: Console) -> None:
    """Print the configuration that overrides make."""
    print(as_yaml(configure(overrides)), end="")


def validate(overrides: list[str], console: Console) -> None:
    """Build every packaged experiment, and every option of every group."""
    from rlkd.commands import validate as validation

    for experiment in options("experiment"):
        validation.validate([f"experiment={experiment}", *overrides])
        say(console, f"experiment={experiment}: ok")
    for group in ("task", "method", "temperature", "optimizer", "scheduler", "student", "teacher"):
        for option in options(group):
            if option not in ("custom", "none"):
                task = ["task=detection"] if option.startswith("fasterrcnn_") else []
                validation.validate([*task, f"{group}={option}", *overrides])
        say(console, f"{group}: every option ok")


def _multirun(overrides: list[str]) -> tuple[list[str], bool]:
    others = [each for each in overrides if each not in ("--multirun", "-m")]
    return others, len(others) < len(overrides)


def _run(overrides: list[str], console: Console) -> dict[str, Any]:
    config = configure(overrides)
    folder = RunFolder(Path(config.output))
    if not folder.result.is_file():  # what has ended reads no data
        require_places(config)
    with leaving_at_once():
        from rlkd.engine.run import run  # with Lightning: what is mistyped was refused before

    result = run(config, console=console)
    print_summary(result, folder, console)
    teacher = f", teacher {100 * result.teacher.headline:.2f} %" if result.teacher else ""
    test = result.test
    say(
        console,
        f"test {test.headline_name} {100 * test.headline:.2f} % (epoch {result.epochs}, the last)"
        f"{teacher}, "
        f"{result.images_per_second:.0f} images/s",
    )
    say(console, f"everything is in {folder.path}")
    return {"output": str(folder.path), "result": result}
