import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlkd.errors import UserError
from rlkd.reporting import Result, Scores

KEYS = {
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


def test_the_keys_are_those_promised(result: Result) -> None:
    told = json.loads(result.to_json())
    assert set(told) == KEYS
    assert told["test"] == {"top1": 0.7, "top5": 0.9, "loss": 1.25}
    assert told["validation"] is None


def test_a_figure_that_is_not_finite_leaves_valid_json(result: Result) -> None:
    text = replace(result, test=Scores(0.1, 0.5, math.nan), images_per_second=math.inf).to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert math.isnan(Result.from_json(text).test.loss)


LATER = {"validation", "student_sha256"}
"""What results of earlier releases lack."""


def test_what_came_later_may_be_absent_but_nothing_else(result: Result) -> None:
    told = json.loads(result.to_json())
    for key in KEYS - LATER:
        with pytest.raises(UserError, match=f"'{key}' is missing"):
            Result.from_json(json.dumps({k: v for k, v in told.items() if k != key}))
    assert Result.from_json(json.dumps({k: v for k, v in told.items() if k not in LATER})) == result


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", 2.5), ("seed", True), ("hardware", 3), ("test", None), ("versions", []),
     ("images_per_second", "fast"), ("versions", {"torch": 2}), ("epochs", -1), ("seed", 10**400),
      ("seed", 2**63), ("wall_seconds", 10**400), ("test", {"top1": 71.0, "top5": 1, "loss": 1}),
      ("student_sha256", 5)],
)  # fmt: skip
def test_a_field_of_the_wrong_type_is_named(result: Result, key: str, value: object) -> None:
    told = json.loads(result.to_json()) | {key: value}
    with pytest.raises(UserError, match=key) as caught:
        Result.from_json(json.dumps(told), source="there/result.json")
    assert "there/result.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_figure_beyond_a_float_is_none(result: Result) -> None:
    told = result.to_json().replace(f'"loss": {result.test.loss}', '"loss": 1e999')
    with pytest.raises(UserError, match="field 'loss' is Infinity, expected a number"):
        Result.from_json(told)


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
