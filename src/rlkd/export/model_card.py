"""The card of an exported student, in Hugging Face's form: what it is, how it does, how to use it.

What is not known is left out.
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
from rlkd.export.loading_lines import loading_lines
from rlkd.reporting import AnyScores, Result
from rlkd.reporting.escaping import markdown, markdown_code
from rlkd.reporting.files import write_text
from rlkd.reporting.table import Cells, to_markdown
from rlkd.text_files import read_json, read_text

_MARK = "<!-- written by rlkd export -->"
_TASKS = {"classification": "image-classification", "detection": "object-detection"}
_METRICS = {"top1": "accuracy", "top5": "accuracy", "ap": "map"}
"""Hugging Face's names of what they have one for."""
_LAYOUTS = ("imagenet", "folder", "parquet", "webdataset")
"""In which ImageNet comes, and anybody's images."""
_TOLD = {"task", "architecture", "format", "class_names", "input", "output", "sha256"}
"""The least that is said of an exported file."""
_COCO_IDS = {*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

Facts = Mapping[str, Any]
"""What is told of an exported file in the JSON beside it."""


@dataclass(frozen=True)
class Training:
    """The run that a student comes from."""

    config: DictConfig
    result: Result | None
    """None where the run has left none."""


def write_card(folder: Path, files: Mapping[str, Facts], training: Training | None) -> Path:
    """Write the card beside the files: README.md, or model_card.md if that is somebody else's.

    Args:
        folder: of the files.
        files: by name, each of the same student.
        training: None where it is not known how the student came about.

    Returns:
        The path of the card.
    """
    path = folder / "README.md"
    if path.exists() and not _is_card(path):
        path = folder / "model_card.md"
    write_text(path, card(files, training))
    return path


def exported_beside(path: Path, student: str | None) -> dict[str, Facts]:
    """Return the facts of an exported file and of those of the same student in its folder.

    Args:
        path: of the file.
        student: fingerprint of the student's weights; None where there is none.
    """
    found: dict[str, Facts] = {}
    own = read_json(path.with_name(f"{path.name}.json"), "export it again")
    for told in sorted(path.parent.glob("*.json")):
        name = told.name.removesuffix(".json")
        try:
            facts: Any = read_json(told, "")
        except UserError:
            continue
        same = name == path.name or (student is not None and _student_of(facts) == student)
        alike = same and all(type(facts.get(key)) is type(own[key]) for key in own)
        if alike and told.with_name(name).is_file():
            found[name] = facts
    return found


def card(files: Mapping[str, Facts], training: Training | None) -> str:
    """Return the card's text. See `write_card`."""
    facts = next(iter(files.values()))
    name = facts["architecture"]
    title = name if training is None else f"{name}, trained on {_data(facts, training)}"
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(facts, training), sort_keys=False)}---",
        _MARK,
        f"# {markdown(title)}",
        markdown(_introduction(facts, training)),
        *([] if training is None or training.result is None else _results(training.result)),
        *([] if training is None else _training(facts, training)),
        *_use(facts, _public(facts, training)),
        *_loading(files),
    ]
    return "\n\n".join(parts) + "\n"


def _is_card(path: Path) -> bool:
    try:
        return _MARK in read_text(path, "")
    except UserError:
        return False


def _student_of(facts: Any) -> str | None:
    told = isinstance(facts, dict) and facts.keys() >= _TOLD
    return facts.get("student_sha256") if told else None


def _front_matter(facts: Facts, training: Training | None) -> dict[str, Any]:
    task = _TASKS[facts["task"]]
    architecture = str(facts["architecture"])
    front: dict[str, Any] = {
        "library_name": "timm" if architecture.startswith("timm:") else "pytorch",
        "pipeline_tag": task,
        "tags": [task, *(["knowledge-distillation"] if _teacher(training) else []), "rlkd"],
    }
    data = _public(facts, training)
    if data is None or training is None or training.result is None:
        return front
    front["model-index"] = [
        {
            "name": architecture,
            "results": [
                {
                    "task": {"type": task},
                    "dataset": {"type": data, "name": data, "split": "test"},
                    "metrics": [
                        {"type": _METRICS.get(column, column), "name": column, "value": value}
                        for column, value in training.result.test.figures().items()
                        if math.isfinite(value)
                    ],
                }
            ],
        }
    ]
    return front


def _introduction(facts: Facts, training: Training | None) -> str:
    classes = facts["class_names"]
    names = facts.get("readable_names", classes)
    does = {"classification": "names the class of an image", "detection": "finds objects in images"}
    told = f"A network that {does[facts['task']]}, {len(classes)} classes: {_few(names)}."
    teacher = _teacher(training)
    if teacher is not None:
        told += f" It was distilled from a teacher, {teacher}, by rlkd."
    return told


def _results(result: Result) -> list[str]:
    rows: list[tuple[str, AnyScores]] = [("student, test split", result.test)]
    if result.validation is not None:
        rows.append(("student, validation split", result.validation))
    if result.teacher is not None:
        rows.append(("teacher, test split", result.teacher))
    header = ["", *result.test.headings.values()]
    cells = [[name, *scores.words(scores.figures()).values()] for name, scores in rows]
    table = to_markdown(Cells(header, cells), left=("",))
    note = (
        f"One run, seed {result.seed}: with n = 1 its spread is not known. The figures are those "
        f"after epoch {result.epochs}, the last; the test split selected nothing."
    )
    return ["## Results", table, note]


def _training(facts: Facts, training: Training) -> list[str]:
    config, result = training.config, training.result
    images: Mapping[str, int] = facts.get("images", {})
    sizes = [f"{count:,} images to {what}" for what, count in images.items()]
    if (limit := config.data.get("limit")) is not None:
        sizes.append(f"limited to {limit:,} training images")
    told = {
        "Data": ", ".join([_data(facts, training), *sizes]),
        "Teacher": _teacher(training),
        "Method": f"{config.chosen.method}: {_terms(config)}",
        "Temperature": config.chosen.temperature if _teacher(training) else None,
        "Optimiser": config.chosen.optimizer,
        "Batch": config.trainer.batch_size,
        "Precision": config.trainer.precision,
    }
    if result is not None:
        told |= {
            "Epochs": result.epochs,
            "Seed": result.seed,
            "Machine": result.hardware,
            "Versions": ", ".join(f"{name} {each}" for name, each in result.versions.items()),
            "SHA-256 of the configuration": result.config_sha256,
        }
    lines = [
        f"- {name}: {markdown(str(value))}" for name, value in told.items() if value is not None
    ]
    return ["## Training", "\n".join(lines)]


def _use(facts: Facts, data: str | None) -> list[str]:
    like = "those it was trained on" if data is None else f"those of {data}"
    answers = {
        "classification": "it names one of its classes for every image, also where none is shown",
        "detection": "it knows no other objects than those of its classes",
    }
    text = (
        f"Use it on images like {like}: {answers[facts['task']]}. How it does on other images, and "
        "how far its scores can be taken for probabilities, was not measured: it is not to decide "
        "alone where an error does harm."
    )
    return ["## Intended use and limits", markdown(text)]


def _loading(files: Mapping[str, Facts]) -> list[str]:
    parts = ["## Load it", _input(next(iter(files.values())))]
    for name, facts in files.items():
        parts.append(f"{markdown_code(name)}, SHA-256 {markdown_code(str(facts['sha256']))}:")
        parts.append("```python\n" + "\n".join(loading_lines(name, facts)) + "\n```")
    return parts


def _input(facts: Facts) -> str:
    given = facts["input"]
    name = "images" if facts["task"] == "classification" else "image"
    told = f"is {_shape(given['shape'])}, {given['values']}"
    if "mean" in given:
        told += f"; mean {given['mean']}, std {given['std']}"
    told += f". Given back: {facts['output']}, which is in the JSON beside each file."
    return f"`{name}` {markdown(told)}"


def _shape(shape: Sequence[Any]) -> str:
    return " x ".join(map(str, shape))


def _data(facts: Facts, training: Training) -> str:
    classes = len(facts["class_names"]) - (facts["task"] == "detection")  # the background
    return _public(facts, training) or f"images of one's own ({classes:,} classes)"


def _public(facts: Facts, training: Training | None) -> str | None:
    """Return the name of the data set; None for images of one's own, in whatever layout."""
    if training is None:
        return None
    data = str(training.config.chosen.data)
    if data in _LAYOUTS:
        return "imagenet" if tuple(facts["class_names"]) == WNIDS else None
    if data == "coco":
        return data if _COCO_IDS <= {*facts["category_ids"]} <= {*range(91)} else None
    return data


def _teacher(training: Training | None) -> str | None:
    """Return the teacher's name; None where none is configured, or the method asks none."""
    if training is None:
        return None
    config, result = training.config, training.result
    used = build.objective(config).needs_teacher if result is None else result.teacher is not None
    return config.teacher.name if used else None


def _terms(config: DictConfig) -> str:
    terms = build.objective(config).terms
    return ", ".join(f"{term.weight:g} {name}" for name, term in terms.items())


def _few(names: Sequence[str], shown: int = 10) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more
