"""The card of an exported student, in Hugging Face's form: what it is, how it does, how to use it.

Facts that are not known are left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from rlkd.data.imagenet_names import WNIDS
from rlkd.engine import build
from rlkd.errors import UserError
from rlkd.reporting import Result
from rlkd.reporting.escaping import markdown, markdown_code
from rlkd.reporting.pages import environment
from rlkd.reporting.tables import Cells, to_markdown
from rlkd.text_files import read_json, read_text, write_text

_MARK = "<!-- written by rlkd export -->"
_NAMES = ("README.md", "model_card.md")
"""Of a card, the second where the first is somebody else's."""
_TASKS = {"classification": "image-classification", "detection": "object-detection"}
_DOES = {"classification": "names the class of an image", "detection": "finds objects in images"}
_METRICS = {"top1": "accuracy", "top5": "accuracy", "ap": "map"}
"""Hugging Face's names, where they have one."""
_SPLITS: Mapping[str, str | None] = {
    **dict.fromkeys(("cifar10", "cifar100", "digits"), "test"),
    **dict.fromkeys(("imagenet", "coco"), "validation"),
    "shapes": None,
}
"""Public data sets, and the split that a student is tested on; None for generated images."""
_LAYOUTS = ("imagenet", "folder", "parquet", "webdataset")
"""Layouts that hold ImageNet, or images of one's own."""
_REQUIRED = {"task", "architecture", "format", "class_names", "input", "output", "sha256"}
"""The keys of the facts of every exported file."""
_COCO_IDS = {*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

Facts = Mapping[str, Any]
"""The JSON beside an exported file."""


@dataclass(frozen=True)
class Training:
    """The run that a student comes from."""

    config: DictConfig
    result: Result | None
    """None where the run has left none."""


def write_card(folder: Path, files: Mapping[str, Facts], training: Training | None) -> Path:
    """Write the card beside the files.

    Args:
        folder: of the files.
        files: by name, each of the same student.
        training: None where it is not known how the student came about.

    Returns:
        The path of the card, see `card_path`.
    """
    path = card_path(folder)
    write_text(path, card(files, training))
    return path


def card_path(folder: Path) -> Path:
    """Return where a card goes in a folder: README.md, or model_card.md if that is no card.

    Raises:
        UserError: if neither is there for it.
    """
    paths = [folder / name for name in _NAMES]
    for path in paths:
        if not path.exists() or _is_card(path):
            return path
    raise UserError(
        f"{folder}: {' and '.join(_NAMES)} are no cards of rlkd's, so they are kept: "
        "rename one, or give to=FILE in another folder"
    )


def exported_beside(path: Path, student: str | None) -> dict[str, Facts]:
    """Return the facts of an exported file and of those of the same student in its folder.

    Args:
        path: of the file.
        student: fingerprint of the student's weights; None where there is none.
    """
    found: dict[str, Facts] = {}
    own = read_json(path.with_name(f"{path.name}.json"), "export it again")
    for beside in sorted(path.parent.glob("*.json")):
        name = beside.name.removesuffix(".json")
        try:
            facts: Any = read_json(beside, "")
        except UserError:
            continue
        same = name == path.name or (student is not None and _student_of(facts) == student)
        alike = same and all(type(facts.get(key)) is type(own[key]) for key in own)
        if alike and beside.with_name(name).is_file():
            found[name] = facts
    return found


def card(files: Mapping[str, Facts], training: Training | None) -> str:
    """Return the card's text. See `write_card`."""
    facts = next(iter(files.values()))
    names, detects = facts["class_names"], facts["task"] == "detection"
    config, result = (None, None) if training is None else (training.config, training.result)
    teacher, public = _teacher(training), _public(facts, training)
    data = public or f"images of one's own ({len(names) - detects:,} classes)"  # less background
    architecture = str(facts["architecture"])
    introduction = f"A network that {_DOES[facts['task']]}, {len(names)} classes: "
    introduction += f"{_few(facts.get('readable_names', names))}."
    if teacher is not None:
        introduction += f" It was distilled from a teacher, {teacher}, by rlkd."
    template = environment(Path(__file__).parent, autoescape=False)
    template.filters |= {"markdown": markdown, "code": markdown_code, "repr": repr}
    return template.get_template("model_card.md").render(
        front_matter=yaml.safe_dump(_front_matter(facts, training), sort_keys=False),
        mark=_MARK,
        title=architecture if training is None else f"{architecture}, trained on {data}",
        introduction=introduction,
        scores=None if result is None else _scores(result),
        config=config,
        result=result,
        data="; ".join([data, *([] if training is None else _sizes(facts, training))]),
        teacher=teacher,
        temperature=None if config is None else _temperature(config),
        labels={} if config is None else _labels(config),
        in_torch=any(each["format"] != "onnx" for each in files.values()),
        method=None if config is None else f"{config.chosen.method}: {_terms(config)}",
        versions=", ".join(f"{name} {each}" for name, each in result.versions.items())
        if result is not None
        else None,
        public=public,
        detects=detects,
        given="image" if detects else "images",
        input=_input(facts),
        files=files,
        architecture=architecture,
        classes=len(names),
        **_preparation(files),
    )


def _is_card(path: Path) -> bool:
    try:
        return _MARK in read_text(path, "")
    except UserError:
        return False


def _student_of(facts: Any) -> str | None:
    complete = isinstance(facts, dict) and facts.keys() >= _REQUIRED
    return facts.get("student_sha256") if complete else None


def _front_matter(facts: Facts, training: Training | None) -> dict[str, Any]:
    task = _TASKS[facts["task"]]
    architecture = str(facts["architecture"])
    front: dict[str, Any] = {
        "library_name": "timm" if architecture.startswith("timm:") else "pytorch",
        "pipeline_tag": task,
        "tags": [task, *(["knowledge-distillation"] if _teacher(training) else []), "rlkd"],
    }
    data = _public(facts, training)
    split = None if data is None else _SPLITS[data]
    if split is None or training is None or training.result is None:
        return front
    metrics = [
        {"type": _METRICS.get(column, column), "name": column, "value": value}
        for column, value in training.result.test.figures().items()
        if math.isfinite(value)
    ]
    dataset = {"type": data, "name": data, "split": split}
    results = [{"task": {"type": task}, "dataset": dataset, "metrics": metrics}]
    front["model-index"] = [{"name": architecture, "results": results}]
    return front


def _temperature(config: DictConfig) -> str:
    """Return the source of temperatures, and the one temperature that it has, if it has one."""
    held = config.temperature.get("temperature")
    chosen = str(config.chosen.temperature)
    return f"{chosen}, {held:g}" if isinstance(held, int | float) else chosen


def _labels(config: DictConfig) -> dict[str, Any]:
    """Return what was done to labels and images in training, by name."""
    held = {
        "Class weights": config.task.get("class_weights"),
        "Label smoothing": config.task.get("label_smoothing"),
        "Mixed images": config.task.get("mix"),
    }
    return {name: value for name, value in held.items() if value}


def _scores(result: Result) -> str:
    """Return the table of scores, in Markdown."""
    rows = [("student, test split", result.test), ("student, validation split", result.validation)]
    rows.append(("teacher, test split", result.teacher))
    header = ["", *result.test.headings.values()]
    cells = [
        [name, *scores.words(scores.figures()).values()]
        for name, scores in rows
        if scores is not None
    ]
    return to_markdown(Cells(header, cells), left=("",))


def _sizes(facts: Facts, training: Training) -> list[str]:
    counts = [] if training.result is None else [training.result.images.words]
    if (tested := facts.get("images", {}).get("test on")) is not None:
        counts.append(f"{tested:,} to test on")
    sizes = [f"images: {', '.join(counts)}"] if counts else []
    if (limit := training.config.data.get("limit")) is not None:
        sizes.append(f"limited to {limit:,} training images")
    return sizes


def _input(facts: Facts) -> str:
    """Describe what a file takes and gives."""
    given = facts["input"]
    words = f"{' x '.join(map(str, given['shape']))}, {given['values']}"
    if "mean" in given:
        words += f"; mean {given['mean']}, std {given['std']}"
    return f"{words}. Given back: {facts['output']}."


def _preparation(files: Mapping[str, Facts]) -> dict[str, Any]:
    """Return what the lines that make an image ready need; no frame where none are known.

    All are numbers, whatever a file says: they become code.
    """
    given = next((each["input"] for each in files.values() if "frame" in each["input"]), {})
    try:
        channels, *size = (int(each) for each in given["shape"][1:])
        reached = [int(each) for each in given["frame"]]
        values = {key: [float(each) for each in given[key]] for key in ("mean", "std")}
    except (KeyError, TypeError, ValueError, OverflowError):
        return {"frame": None}
    if channels not in (1, 3) or not len(size) == len(reached) == 2:
        return {"frame": None}
    return {"frame": reached, "size": size, "channels": channels, **values}


def _public(facts: Facts, training: Training | None) -> str | None:
    """Return the name of a data set of `_SPLITS`; None for images of one's own, in any layout."""
    if training is None:
        return None
    data = str(training.config.chosen.data)
    if data in _LAYOUTS:
        return "imagenet" if tuple(facts["class_names"]) == WNIDS else None
    if data == "coco":
        return data if _COCO_IDS <= {*facts["category_ids"]} <= {*range(91)} else None
    return data if data in _SPLITS else None


def _teacher(training: Training | None) -> str | None:
    """Return the teacher's name, of several the first's; None where the method asks for none."""
    if training is None:
        return None
    config, result = training.config, training.result
    used = build.objective(config).needs_teacher if result is None else result.teacher is not None
    more = len(config.teacher.get("also") or ())
    name = f"{config.teacher.name} and {more} more" if more else config.teacher.name
    return name if used else None


def _terms(config: DictConfig) -> str:
    terms = build.objective(config).terms
    return ", ".join(f"{term.weight:g} {name}" for name, term in terms.items())


def _few(names: Sequence[str], shown: int = 10) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more
