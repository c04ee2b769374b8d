"""The demonstration: its arms train on the same images and are judged by the paired test."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.refusal import Refuse, assert_told

from rlkd.commands.demo import demo
from rlkd.reporting import ImageCounts, Result

pytestmark = pytest.mark.usefixtures("plainly")

SMALL = ("data.limit=200", "trainer.epochs=2", "exploration.epochs=1", "trainer.evaluate_every=2")


def test_its_arms_train_on_the_same_images_and_its_last_lines_say_what_was_found(
    tmp_path: Path,
) -> None:
    told = io.StringIO()
    given = ["seeds=3,5", f"output={tmp_path}", *SMALL]
    demo(given, Console(file=told, width=200))
    results = {path.parent.name: Result.read(path) for path in tmp_path.glob("*/result.json")}
    arms = ("student_alone", "constant_T", "random_T", "RLKD")
    students = [f"{arm}_seed_{seed}" for arm in arms for seed in (3, 5)]
    assert sorted(results) == sorted(["teacher", *students])
    assert results["teacher"].seed == 0
    counts = {name: result.images for name, result in results.items()}
    assert counts == dict.fromkeys(results, ImageCounts(training=72, probe=128))
    page = (tmp_path / "report.html").read_text()
    assert "<dt>Images</dt><dd>72 trained on, 128 held out, in every arm</dd>" in page
    assert f"<code>rlkd demo seeds=3,5 output={tmp_path} {' '.join(SMALL)}</code>" in page
    lines = told.getvalue().splitlines()
    assert "verdict" in told.getvalue()
    assert lines[0] == "run 1 of 9: teacher"
    assert lines[8] == "run 9 of 9: RLKD, seed 5"
    assert re.match(r"RLKD against constant T, n = 2: [+-]\d+\.\d\d points, .*\.$", lines[-2])
    assert lines[-1] == f"the pictures: {tmp_path / 'report.html'}"


def test_one_seed_for_all_runs_is_refused_before_any(refuse: Refuse, tmp_path: Path) -> None:
    told = refuse("demo", "seed=5", f"output={tmp_path / 'demo'}")
    assert told == "rlkd: seed=5: the demonstration takes several, seeds=5"
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("seeds", ["", "a,b", "1,1", "-1", "0.5"])
def test_seeds_that_are_none_are_refused(refuse: Refuse, seeds: str) -> None:
    told = refuse("demo", f"seeds={seeds}")
    assert_told(told, f"seeds={seeds}: give whole numbers, each once, such as seeds=3,4,5")
