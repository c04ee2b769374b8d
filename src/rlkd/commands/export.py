"""The student in a file for use elsewhere: what `rlkd export` calls."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from rlkd.atomic import whole
from rlkd.config.settings import trust, trusted_by
from rlkd.engine import build
from rlkd.engine.finished_run import configured, describes_data, own_words
from rlkd.engine.lock import locked
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.task import Answer, Exportable
from rlkd.errors import UserError
from rlkd.export.formats import SUFFIXES
from rlkd.export.model_card import Training, card_path, exported_beside, write_card
from rlkd.regular_files import file_sha256
from rlkd.reporting import Result, versions
from rlkd.reporting.escaping import say
from rlkd.text_files import write_text

WORDS = ("run", "format", "to")
"""What is `export`'s own among what is given."""
TOLERANCE = 1e-4
"""The most by which an answer may differ from the student's."""


def export(overrides: Iterable[str] = (), *, console: Console | None = None) -> float:
    """Write a student to a file, having seen that the file answers as the student does.

    Beside it goes `FILE.json`, which says what the file takes and gives, and a card of the student
    and all its files there: see `card_path`. An older file of the same name is replaced only by
    one that agrees.

    Args:
        overrides: `format=safetensors`, `onnx` or `torch_export`, and `to=FILE`; `run=FOLDER` for
            the student of a run, else Hydra's with `student=NAME student.checkpoint=FILE` and the
            data it was trained on; of a classifier's run they may be gone.
        console: where to say what was written; None for standard output.

    Returns:
        The largest difference found between the file's answers and the student's.

    Raises:
        UserError: for what the user can fix, and if that difference is above `TOLERANCE`.
    """
    words, others = own_words(overrides, WORDS)
    name, path = _format_and_path(words)
    config = configured(others, run=words.get("run"))
    training = _training(config, words.get("run"))
    options = build.trainer_options(config)
    options.use_threads()
    console = console or Console()
    with locked(path.parent, config.lock, console):
        card_path(path.parent)  # refuses before anything is written
        ready = build.task(config).exportable(config, options, describes_data(words, others))
        return _export(config, ready, name, path, training, console)


def _export(
    config: DictConfig,
    ready: Exportable,
    name: str,
    path: Path,
    training: Training | None,
    console: Console,
) -> float:
    if name not in ready.formats:
        raise UserError(
            f"format={name} is not for this student: {ready.refused.get(name, 'not written')}; "
            f"give format={' or '.join(ready.formats)}"
        )
    with whole(path) as unfinished:
        ready.formats[name].write(unfinished)
        difference = _difference(ready, ready.formats[name].read(unfinished))
        if not difference <= TOLERANCE:
            raise UserError(
                f"format={name}: the file's answers differ from the student's by {difference:.2g}, "
                f"above {TOLERANCE:g}, so it was removed: give another format"
            )
    student = _fingerprint(config)
    facts = {
        "format": name,
        **ready.facts,
        "student_sha256": student,
        "sha256": file_sha256(path),
        "max_difference": difference,
        "versions": versions(),
    }
    facts_file = path.with_name(f"{path.name}.json")
    write_text(facts_file, json.dumps(facts, indent=1))
    card = write_card(path.parent, exported_beside(path, student), training)
    say(
        console,
        f"{path}: answers as the student does, to {difference:.2g}; {facts_file} says what it "
        f"takes and gives, {card} where it comes from",
    )
    return difference


def _training(config: DictConfig, run: str | None) -> Training | None:
    """Return how the student came about; None where it is another than the run's."""
    if run is None:
        return None
    folder = RunFolder(Path(run))
    if config.student.checkpoint != str(folder.student):
        return None
    settings = folder.settings  # those of `config` may be the export's own
    trust(settings, trusted_by(config), held_by=str(folder.config))
    result = Result.read(folder.result) if folder.result.is_file() else None
    return Training(settings, result)


def _fingerprint(config: DictConfig) -> str | None:
    checkpoint = config.student.checkpoint
    return None if checkpoint is None else file_sha256(Path(str(checkpoint)))


def _format_and_path(words: dict[str, str]) -> tuple[str, Path]:
    name = words.get("format")
    if name not in SUFFIXES:
        raise UserError(f"format={name}: give one of {', '.join(SUFFIXES)}")
    if "to" not in words:
        raise UserError(f"to is missing: give to=student{SUFFIXES[name]}, say")
    path = Path(words["to"])
    if path.suffix != SUFFIXES[name]:
        raise UserError(f"to={path}: a file of format={name} ends in {SUFFIXES[name]}")
    if path.is_dir():
        raise UserError(f"to={path}: is a folder; give a file")
    return name, path


def _difference(ready: Exportable, file: Answer) -> float:
    """Return the largest difference over all inputs; infinite where shapes differ.

    Raises:
        UserError: if the student says nothing of any input, so that nothing can be compared.
    """
    compared, largest = 0, 0.0
    for each in ready.inputs:
        own, read = ready.answer(each), file(each)
        largest = max(largest, _apart(own, read))
        compared += sum(tensor.numel() for tensor in own)
    if not compared:
        raise UserError(
            "the student finds nothing in the first test images, so that the file cannot be "
            "compared with it: train it longer"
        )
    return largest


def _apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    if [each.shape for each in one] != [each.shape for each in other]:
        return float("inf")
    apart = [
        (a.double() - b.double()).abs().max().item()
        for a, b in zip(one, other, strict=True)
        if a.numel()
    ]
    return float("inf") if any(each != each for each in apart) else max(apart, default=0.0)
