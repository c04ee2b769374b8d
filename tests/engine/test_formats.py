"""What another release wrote is refused by its format number, in one line that says what to do."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.refusal import Refuse, assert_told
from tests.support.run_folders import classifier_run

from rlkd.engine.class_names import keep_order
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.reporting import ImageCounts, PolicyMap, Result, Scores
from rlkd.text_files import read_object, write_object

OTHERS = pytest.mark.parametrize(
    ("number", "told"), [(2, "format 2"), ("1", 'format "1"'), (None, "no format number")]
)


def renumber(path: Path, number: object) -> str:
    """Give a file another format number, or none; return what it then holds."""
    text = path.read_text()
    if path.suffix == ".yaml":
        line = "" if number is None else f"format: {json.dumps(number)}\n"
        text, count = re.subn(r"^format: 1\n", line, text)
        assert count == 1
    else:
        held = json.loads(text)
        assert held.pop("format") == 1
        text = json.dumps(held if number is None else {"format": number, **held})
    path.write_text(text)
    return text


def refused(read: Callable[[], object], path: Path, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read()
    assert str(caught.value) == (
        f"{path} has {told}, this release of rlkd reads 1: use the release that wrote it, or "
        "begin again in another folder"
    )


@OTHERS
@pytest.mark.parametrize("name", ["config.yaml", "images.json", "class_names.json"])
def test_a_run_of_another_format_is_neither_gone_on_with_nor_changed(
    name: str, number: object, told: str, tmp_path: Path
) -> None:
    def go_on() -> None:
        folder.claim("seed: 1\n", ImageCounts(40), "feed")
        keep_order(folder, ["cat", "dog"])

    folder = RunFolder(tmp_path / "run")
    go_on()
    go_on()
    text = renumber(folder.path / name, number)
    refused(go_on, folder.path / name, told)
    assert (folder.path / name).read_text() == text


@OTHERS
def test_figures_of_another_format_are_not_read(number: object, told: str, tmp_path: Path) -> None:
    scores = Scores(0.7, 0.9, 1.25)
    images, versions = ImageCounts(training=40), {"torch": "2.9.0"}
    result = Result(scores, None, None, images, 3, 0, 1000.0, 60.0, "a CPU", versions, "feed")
    policy = PolicyMap([0.0, 1.0], [0.0, 1.0], [[4.0]], [[3]])
    for held, name in ((replace(result, student_sha256="f00d"), "result"), (policy, "policy")):
        path = tmp_path / f"{name}.json"
        held.write(path)
        assert type(held).read(path) == held
        renumber(path, number)
        refused(lambda: type(held).read(path), path, told)  # noqa: B023, called at once


@OTHERS
def test_objects_of_another_format_are_not_read(number: object, told: str, tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    write_object(path, {"jobs": {"ü": []}})
    assert read_object(path, "") == {"jobs": {"ü": []}}
    renumber(path, number)
    refused(lambda: read_object(path, ""), path, told)


def test_a_command_refuses_a_run_of_another_format_in_one_line(
    tmp_path: Path, refuse: Refuse
) -> None:
    run = classifier_run(tmp_path / "run")
    renumber(run.config, 2)
    told = r"config\.yaml has format 2, this release of rlkd reads 1: use the release that wrote"
    assert_told(refuse("evaluate", f"run={run.path}"), told)
