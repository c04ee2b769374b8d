import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlkd.errors import UserError
from rlkd.reporting import Result, Scores

KEYS = {
    "format",
    "test",
    "teacher",
    "teacher_sha256",
    "images",
    "epochs",
    "seed",
    "images_per_second",
    "wall_seconds",
    "hardware",
    "versions",
    "config_sha256",
    "validation",
    "student_sha256",
}


@pytest.fixture
def result(make_result: Callable[..., Result]) -> Result:
    return make_result()


def test_a_result_comes_back_from_its_file(tmp_path: Path, result: Result) -> None:
    full = replace(
        result,
        validation=Scores(0.61, 0.88, 1.5),
        teacher=None,
        teacher_sha256=None,
        student_sha256="f00d" * 16,
    )
    full.write(tmp_path / "run" / "result.json")
    assert Result.read(tmp_path / "run" / "result.json") == full


@pytest.fixture
def path(tmp_path: Path, result: Result) -> Path:
    result.write(tmp_path / "result.json")
    return tmp_path / "result.json"


def test_the_keys_are_those_promised(path: Path) -> None:
    told = json.loads(path.read_text())
    assert set(told) == KEYS
    assert told["format"] == 1
    assert told["test"] == {"top1": 0.7, "top5": 0.9, "loss": 1.25, "per_class": {}}
    assert told["validation"] is None


def test_scores_from_before_classes_were_scored_are_read(path: Path, result: Result) -> None:
    told = json.loads(path.read_text())
    del told["test"]["per_class"]
    path.write_text(json.dumps(told))
    assert Result.read(path) == result


def test_a_figure_that_is_not_finite_leaves_valid_json(path: Path, result: Result) -> None:
    replace(result, test=Scores(0.1, 0.5, math.nan), images_per_second=math.inf).write(path)
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()
    back = Result.read(path)
    assert isinstance(back.test, Scores)
    assert math.isnan(back.test.loss)
    assert math.isnan(back.images_per_second)


def test_no_field_may_be_absent(path: Path) -> None:
    told = json.loads(path.read_text())
    for key in KEYS - {"format"}:
        path.write_text(json.dumps({k: v for k, v in told.items() if k != key}))
        with pytest.raises(UserError, match=f"'{key}' is missing"):
            Result.read(path)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("epochs", 2.5, "'epochs' is 2.5, expected a whole number from 0;"),
        ("epochs", -1, "'epochs' is -1, expected a whole number from 0;"),
        ("seed", True, "'seed' is true, expected a whole number;"),
        ("seed", 10**400, "'seed' is 1000"),
        ("seed", 2**63, "'seed' is 9223372036854775808, expected a whole number;"),
        ("hardware", 3, "'hardware' is 3, expected a string;"),
        ("test", None, "'test' is null, expected an object;"),
        ("versions", [], r"'versions' is \[\], expected an object;"),
        ("versions", {"torch": 2}, "'versions.torch' is 2, expected a string;"),
        ("images_per_second", "fast", "'images_per_second' is \"fast\", expected a number;"),
        ("wall_seconds", 10**400, "'wall_seconds' is 1000"),
        ("test", {"top1": 71.0, "top5": 1, "loss": 1}, "'test.top1' is 71.0, expected a number "),
        ("images", {"training": 4}, "'images.probe' is missing;"),
        ("teacher_sha256", [1], r"'teacher_sha256' is \[1\], expected a string;"),
        ("student_sha256", 5, "'student_sha256' is 5, expected a string;"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(
    path: Path, key: str, value: object, wanted: str
) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=f"field {wanted}") as caught:
        Result.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; correct it or repeat the run")
    assert "\n" not in str(caught.value)


def test_a_figure_beyond_a_float_is_none(path: Path) -> None:
    path.write_text(path.read_text().replace('"loss": 1.25', '"loss": 1e999'))
    with pytest.raises(UserError, match=r"field 'test\.loss' is Infinity, expected a number"):
        Result.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_damaged_file_is_the_users_to_mend(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"result\.json"):
        Result.read(tmp_path / "result.json")


def test_a_missing_file_and_a_folder_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Result.read(tmp_path / "absent.json")
    with pytest.raises(UserError, match="is a folder"):
        Result.read(tmp_path)
