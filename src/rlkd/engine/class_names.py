"""The order of the classes: left with a run, and held against the data that weights meet again."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlkd.data.imagenet_names import WNIDS
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError, nearest
from rlkd.models import hub
from rlkd.text_files import parse_json, read_json, read_object, read_text, write_object

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
        write_object(path, {"class_names": list(class_names)})


def check_run_order(folder: RunFolder, class_names: Sequence[str]) -> None:
    """Refuse to go on with a run on data whose classes have another order.

    Raises:
        UserError: naming the first class that differs.
    """
    path = folder.path / FILE
    if path.is_file():
        _check(path, path, class_names)


def check_order(checkpoint: Path, class_names: Sequence[str], *, remedy: str = "") -> None:
    """Refuse weights that were trained on data whose classes have another order.

    A run leaves `class_names.json` beside its weights, an export `FILE.json` with the same names,
    a push `config.json`.
    Weights of anybody else have neither, and are not refused.

    Args:
        checkpoint: the weights.
        class_names: the data's.
        remedy: what helps beside the data that they were trained on.

    Raises:
        UserError: naming the first class that differs.
    """
    if source := _source_of(checkpoint):
        _check(checkpoint, source, class_names, remedy)


def taught_rows(given: Any, checkpoint: Path, class_names: Sequence[str]) -> list[int]:
    """Return which of a teacher's classes each of the data's is.

    Args:
        given: `teacher.classes`: for each class of the data, in order, the index or the name of the
            teacher's; or the names of all the teacher's classes, in the order of its logits, among
            which the data's are found; or a file of either, as JSON or a class a line.
        checkpoint: the teacher's; the file with its class names lies beside it, see `check_order`.
        class_names: the data's.

    Raises:
        UserError: if they do not name a class of the teacher for each of the data.
    """
    listed = _listed(given)
    source = _source_of(checkpoint)
    own = names_in(source, checkpoint) if source else None
    if all(isinstance(each, int) for each in listed):
        rows: list[int] = listed
    elif own and len(listed) == len(class_names):
        ordered = listed
        if {*listed} == {*class_names}:
            if listed not in (own, list(class_names)):
                raise UserError(
                    "teacher.classes names the data's classes in an order that is neither theirs "
                    f"nor the teacher's (see {source}): give them in the data's"
                )
            ordered = class_names
        rows = [
            _place(name, own, f"among the teacher's classes (see {source})") for name in ordered
        ]
    else:
        where = "among them, which without a class_names.json beside the checkpoint are to be all "
        where += "the teacher's classes in order"
        rows = [_place(name, listed, where) for name in class_names]
    if len(rows) != len(class_names) or len({*rows}) < len(rows) or min(rows) < 0:
        raise UserError(
            f"teacher.classes gives {len(rows)} indices, {len({*rows})} of them different: give "
            f"one for each of the data's {len(class_names)} classes, from 0"
        )
    return rows


def _listed(given: Any) -> list[Any]:
    if not isinstance(given, str):
        listed: Any = list(given) if isinstance(given, Sequence) else None
    else:
        try:
            content = read_text(
                Path(given).expanduser(),
                "give a file of classes, or a list of them, such as [cat,dog] or [281,207]",
            )
        except UserError as error:
            raise UserError(f"teacher.classes={given}: {error}") from None
        try:
            listed = parse_json(content)
        except ValueError:
            lines = [line.strip() for line in content.splitlines() if line.strip()]
            listed = [int(each) for each in lines] if all(map(str.isdecimal, lines)) else lines
        listed = listed.get("class_names") if isinstance(listed, dict) else listed
    if isinstance(listed, list) and listed:
        for kind in (int, str):
            if all(type(each) is kind for each in listed):
                return listed
    raise UserError(
        f"teacher.classes={given}: give a list of indices or of names, such as [281,207] or "
        "[cat,dog], or a file of one"
    )


def _place(name: str, names: list[str], where: str) -> int:
    if name in names:
        return names.index(name)
    hint = "".join(f"; did you mean {each}?" for each in nearest(name, names)[:1])
    raise UserError(f"teacher.classes: there is no {name} {where}{hint}")


def _source_of(checkpoint: Path) -> Path | None:
    return next((each for each in _beside(checkpoint) if each.is_file()), None)


def _beside(checkpoint: Path) -> Iterator[Path]:
    yield checkpoint.with_name(f"{checkpoint.name}.json")
    yield checkpoint.with_name(FILE)
    if checkpoint.parent.name == "checkpoints":
        yield checkpoint.parent.with_name(FILE)
    if _is_pushed(checkpoint.with_name(hub.CONFIG)):
        yield checkpoint.with_name(hub.CONFIG)


def _is_pushed(config: Path) -> bool:
    """Return whether `rlkd push` wrote a file of a name that others use too."""
    try:
        held = read_json(config, "")
    except UserError:
        return False
    return isinstance(held, dict) and held.get("library_name") == hub.LIBRARY


def _check(subject: Path, source: Path, class_names: Sequence[str], further: str = "") -> None:
    names = names_in(source, subject)
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
    remedy += f", or {further}" if further else ""
    raise UserError(f"{subject} has {what} (see {source}): {remedy}")


def names_in(source: Path, subject: Path) -> list[str]:
    """Return the class names in the file of a run, or in the one beside an export.

    Args:
        source: the file.
        subject: the weights whose classes they are, for messages.

    Raises:
        UserError: if it names none.
    """
    remedy = "fix or remove it"
    held = read_object(source, remedy) if source.name == FILE else read_json(source, remedy)
    names = held.get("class_names") if isinstance(held, dict) else None
    if not isinstance(names, list) or not all(isinstance(each, str | int) for each in names):
        whose = "the run" if subject == source else subject.name
        raise UserError(f"{source} does not name the classes of {whose}: {remedy}")
    return list(map(str, names))
