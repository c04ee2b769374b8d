"""The order of the classes: left with a run, and held against the data that weights meet again."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlkd.data.imagenet_names import WNIDS
from rlkd.errors import UserError
from rlkd.reporting.files import write_text
from rlkd.training.run_folder import RunFolder

FILE = "class_names.json"
"""In a run's folder: the names of the data's classes, in the order of the student's logits."""


def keep_order(folder: RunFolder, class_names: Sequence[str]) -> None:
    """Leave the class order in a run's folder; where it has one, see that it is the same.

    Raises:
        UserError: if it is another.
    """
    path = folder.path / FILE
    if path.is_file():
        check_run_order(folder, class_names)
    else:
        write_text(path, json.dumps(list(class_names), indent=0, ensure_ascii=False))


def check_run_order(folder: RunFolder, class_names: Sequence[str]) -> None:
    """Refuse to go on with a run on data whose classes have another order.

    Raises:
        UserError: naming the first class that differs.
    """
    path = folder.path / FILE
    if path.is_file():
        _check(path, path, class_names)


def check_order(checkpoint: Path, class_names: Sequence[str]) -> None:
    """Refuse weights that were trained on data whose classes have another order.

    A run leaves `class_names.json` beside its weights, an export `FILE.json` with the same names.
    Weights of anybody else have neither, and are not refused.

    Raises:
        UserError: naming the first class that differs.
    """
    for told in _beside(checkpoint):
        if told.is_file():
            _check(checkpoint, told, class_names)
            return


def _beside(checkpoint: Path) -> Iterator[Path]:
    yield checkpoint.with_name(f"{checkpoint.name}.json")
    yield checkpoint.with_name(FILE)
    if checkpoint.parent.name == "checkpoints":
        yield checkpoint.parent.with_name(FILE)


def _check(subject: Path, told: Path, class_names: Sequence[str]) -> None:
    try:
        found: Any = json.loads(told.read_text(encoding="utf-8"))
        names = list(map(str, found["class_names"] if isinstance(found, dict) else found))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{told} is to name the classes of {subject.name} and cannot be read: mend or remove it"
        ) from None
    if names == list(class_names):
        return
    remedy = "give the data that it was trained on"
    if len(names) != len(class_names):
        what = f"{len(names)} classes, the data {len(class_names)}"
    else:
        row = next(row for row, name in enumerate(names) if name != class_names[row])
        what = f"another class order than the data: class {row} is {names[row]}, of the data "
        what += class_names[row]
        if (set(names) == set(WNIDS)) != (set(class_names) == set(WNIDS)):
            remedy += ", or name the classes of both by data.class_names=imagenet"
    raise UserError(f"{subject} has {what} (see {told.name}): {remedy}")
