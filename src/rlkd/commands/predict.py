"""Predictions for images of one's own: what `rlkd predict` calls."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from rlkd.engine import build
from rlkd.engine.finished_run import configured, describes_data, own_words
from rlkd.engine.lock import locked
from rlkd.engine.task import Asked
from rlkd.errors import UserError

WORDS = ("run", "images", "output", "threshold", "skip_unreadable")
"""What is `predict`'s own among what is given."""
_FOLDER = "predictions"


def predict(overrides: Iterable[str] = (), *, console: Console | None = None) -> None:
    """Write what a student says of images: JSON, and what else its task has.

    Args:
        overrides: `images=FILE_OR_FOLDER`; `run=FOLDER` for the student of a run, else Hydra's with
            `student=NAME student.checkpoint=FILE` and the data it was trained on, which name the
            classes; a classifier's run needs them no more. Where wanted, `output=FOLDER`
            (`predictions` in the run's or in the current folder), `threshold=0.5`,
            `skip_unreadable=true`, which `data.unreadable=skip` is too, given here or to the run.
        console: where to say what was written; None for standard output.

    Raises:
        UserError: for what the user can fix.
    """
    words, others = own_words(overrides, WORDS)
    if "images" not in words:
        raise UserError("nothing to predict: give images=FILE or images=FOLDER")
    threshold, skip = _fraction(words), _truth(words, "skip_unreadable")
    config = configured(others, run=words.get("run"))
    asked = Asked(
        images=Path(words["images"]),
        output=Path(words.get("output", Path(words.get("run", "")) / _FOLDER)),
        threshold=threshold,
        skip_unreadable=config.data.get("unreadable") == "skip" if skip is None else skip,
        run=describes_data(words, others),
    )
    options = build.trainer_options(config)
    options.use_threads()
    console = console or Console()
    with locked(asked.output, config.lock, console):
        build.task(config).predict(config, options, asked, console)


def _fraction(words: dict[str, str]) -> float | None:
    if "threshold" not in words:
        return None
    try:
        value = float(words["threshold"])
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise UserError(f"threshold={words['threshold']}: give a number from 0 to 1")
    return value


def _truth(words: dict[str, str], key: str) -> bool | None:
    if key not in words:
        return None
    value = words[key].lower()
    if value not in ("true", "false"):
        raise UserError(f"{key}={words[key]}: give true or false")
    return value == "true"
