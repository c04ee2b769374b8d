import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlkd.errors import UserError
from rlkd.reporting import AnyScores, DetectionScores, Result, Scores
from rlkd.reporting.results.scores import kind_of

MakeResult = Callable[..., Result]
FOUND = DetectionScores(0.4, 0.6, 0.45, math.nan, 0.3, 0.5, {"circle": 0.5, "square": 0.3})
SORTED = Scores(0.7, 0.9, 1.25)


def test_both_kinds_offer_one_face() -> None:
    assert (SORTED.headline, SORTED.headline_name, SORTED.column) == (0.7, "top-1", "top1")
    assert (FOUND.headline, FOUND.headline_name, FOUND.column) == (0.4, "AP", "ap")
    assert SORTED.figures() == {"top1": 0.7, "top5": 0.9, "loss": 1.25}
    assert list(FOUND.figures()) == ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
    assert SORTED.by_class() == {}
    assert FOUND.by_class() == {"circle": 0.5, "square": 0.3}


@pytest.mark.parametrize("scores", [SORTED, FOUND])
def test_the_headline_is_a_figure_and_every_curve_has_a_heading(scores: AnyScores) -> None:
    assert scores.figures()[scores.column] == scores.headline
    assert set(scores.curves) <= set(scores.headings)
    assert list(scores.words(scores.figures())) == list(scores.headings.values())


def test_figures_are_told_in_their_units() -> None:
    assert SORTED.words(SORTED.figures()) == {
        "top-1, %": "70.00",
        "top-5, %": "90.00",
        "loss": "1.2500",
    }
    assert FOUND.words(FOUND.figures())["AP small, %"] == "n/a"
    assert FOUND.words(FOUND.figures())["AP50, %"] == "60.00"
    assert SORTED.summary == "top-1 70.00 %, top-5 90.00 %"
    assert FOUND.summary == "AP 40.00 %, AP50 60.00 %, AP75 45.00 %"


def test_a_detection_result_comes_back_from_its_file(
    tmp_path: Path, make_result: MakeResult
) -> None:
    known = replace(FOUND, ap_small=0.1)
    result = replace(make_result(), test=known, teacher=known, validation=known)
    result.write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == result


def test_sizes_without_objects_are_null_and_come_back_as_nan(
    tmp_path: Path, make_result: MakeResult
) -> None:
    scores = replace(FOUND, per_class={"circle": 0.5, "square": math.nan})
    replace(make_result(), test=scores, teacher=None).write(tmp_path / "result.json")
    told = json.loads((tmp_path / "result.json").read_text())["test"]
    assert told["ap_small"] is None
    assert told["per_class"] == {"circle": 0.5, "square": None}
    back = Result.read(tmp_path / "result.json").test
    assert isinstance(back, DetectionScores)
    assert math.isnan(back.ap_small)
    assert math.isnan(back.per_class["square"])
    assert list(back.per_class) == ["circle", "square"]


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ({"f1": 0.5}, r"there: field 'test\.top1' or 'test\.ap' is missing; .* repeat the run"),
        ({"ap": 0.5}, r"there: field 'test\.ap50' is missing"),
        ({"top1": 0.5}, r"there: field 'test\.top5' is missing"),
        (
            dict.fromkeys(DetectionScores.headings, 0.5) | {"per_class": None},
            r"there: field 'test\.per_class' is null, expected an object",
        ),
        (
            dict.fromkeys(DetectionScores.headings, 0.5) | {"per_class": {"circle": "good"}},
            r"there: field 'test\.per_class\.circle' is \"good\", expected a number from 0 to 1",
        ),
        (
            dict.fromkeys(DetectionScores.headings, 0.5) | {"per_class": {}},
            r"there: test' is scored by AP and '.*there: teacher' by top-1, which do not compare",
        ),
    ],
)
def test_scores_of_no_kind_are_the_users_to_fix(
    tmp_path: Path, make_result: MakeResult, test: dict[str, object], told: str
) -> None:
    path = tmp_path / "there"
    make_result().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test": test}))
    with pytest.raises(UserError, match=told) as caught:
        Result.read(path)
    assert "\n" not in str(caught.value)


def test_the_kind_is_the_one_all_share() -> None:
    assert kind_of([("a", FOUND), ("b", FOUND)]) is DetectionScores
    assert kind_of([("a", SORTED)]) is Scores
    assert kind_of([]) is Scores
    with pytest.raises(UserError, match="'a' is scored by AP and 'b' by top-1") as caught:
        kind_of([("a", FOUND), ("b", SORTED)])
    assert "\n" not in str(caught.value)
