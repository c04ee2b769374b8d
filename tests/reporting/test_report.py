import base64
import hashlib
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.reporting.conftest import fetches

from rlkd.errors import UserError
from rlkd.reporting import PolicyMap, RunRecord, Scores, compare_arms, write_report
from rlkd.reporting.pages import duration
from rlkd.reporting.tables import at_a_glance

Arms = dict[str, list[RunRecord]]
VOID = {"meta"}


class Balance(HTMLParser):
    """Checks that every element that opens also closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def written(path: Path, arms: Arms, **options: str | None) -> str:
    write_report(path, arms, title="Digits <b>", command=options.pop("command", None), **options)
    page = path.read_text(encoding="utf-8")
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    return page


def pictures(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_a_report_has_four_pictures_that_parse(tmp_path: Path, arms: Arms) -> None:
    assert len(pictures(written(tmp_path / "report.html", arms))) == 4


def test_a_report_needs_no_network_and_no_scripts(tmp_path: Path, arms: Arms) -> None:
    page = written(tmp_path / "report.html", arms)
    assert fetches(page) == []


def test_a_browser_runs_no_script_of_a_page_but_the_one_that_sorts(
    tmp_path: Path, arms: Arms
) -> None:
    page = written(tmp_path / "report.html", arms)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.split(";")[0] == "default-src 'none'"
    assert f"script-src 'sha256-{allowed}'" in policy
    assert policy.count("script-src") == 1


def test_no_coordinate_is_nan(tmp_path: Path, arms: Arms) -> None:
    diverged = replace(arms["kd"][0].result, test=Scores(float("nan"), 0.0, float("nan")))
    rows = [{"epoch": 1.0, "test/top1": float("nan")}, {"epoch": 2.0, "test/top1": 0.5}]
    arms["kd"][0] = replace(arms["kd"][0], result=diverged, metrics=rows)
    page = written(tmp_path / "report.html", arms)
    assert not re.search(r"\b(nan|inf)\b", page, re.IGNORECASE)
    assert len(pictures(page)) == 4


def test_the_header_says_what_ran_and_where(tmp_path: Path, arms: Arms) -> None:
    page = written(tmp_path / "report.html", arms, command="rlkd compare a<b")
    for words in (
        "Digits &lt;b&gt;", "rlkd compare a&lt;b", "one core; no GPU", "torch 2.9.0", "last epoch",
        "0, 1 (n = 2 in each arm)", "2 arms, 4 runs, 3 epochs each", "top-1 75.00 %", "1:02:05",
        "rlkd/1", "0123456789ab",
    ):  # fmt: skip
        assert words in page


def test_the_table_compares_with_the_first_arm_or_the_one_named(tmp_path: Path, arms: Arms) -> None:
    assert "Differences are to arm=kd," in written(tmp_path / "report.html", arms)
    named = written(tmp_path / "report.html", arms, baseline="rlkd")
    assert "Differences are to arm=rlkd," in named
    assert "inside the noise" in named


def test_a_seed_that_occurs_twice_in_an_arm_is_refused(tmp_path: Path, arms: Arms) -> None:
    with pytest.raises(UserError, match="'arm=kd seed=0' occurs twice"):
        written(tmp_path / "report.html", {"kd": [arms["kd"][0]] * 2})


def test_the_verdict_is_that_of_the_paired_test(tmp_path: Path, arms: Arms) -> None:
    # Differences 0.02, 0.01 and 0.03: t = 0.02 / (0.01 / sqrt(3)) = 3.46, p = 0.074. The difference
    # of the means is 2.4 standard errors of two independent samples, sqrt(2 / 3) * 0.01 = 0.0082.
    def arm(label: str, *tops: float) -> list[RunRecord]:
        run = arms[label][0]
        results = [
            replace(run.result, seed=seed, test=Scores(top1, 0.9, 1.0))
            for seed, top1 in enumerate(tops)
        ]
        return [replace(run, result=result) for result in results]

    three = {"kd": arm("kd", 0.70, 0.71, 0.72), "rlkd": arm("rlkd", 0.72, 0.72, 0.75)}
    page = written(tmp_path / "report.html", three)
    found = re.findall(r"<td[^>]*>(.*?)</td>", page)
    assert found[10:18] == [
        "rlkd", "3", "73.00", "1.73", "+2.00", "-0.48 to +4.48", "0.074", "inside the noise",
    ]  # fmt: skip
    told = at_a_glance(compare_arms(three), "rlkd")
    interval = "95 % interval -0.48 to +4.48"
    assert told == f"rlkd against kd, n = 3: +2.00 points, {interval}, inside the noise."
    alone = {label: runs[:1] for label, runs in three.items()}
    told = at_a_glance(compare_arms(alone), "rlkd")
    assert told == "rlkd against kd, n = 1: +2.00 points, no verdict, one shared seed."


def test_a_picture_without_data_is_told_in_words(tmp_path: Path, arms: Arms) -> None:
    page = written(tmp_path / "report.html", {"kd": arms["kd"]})
    assert len(pictures(page)) == 1
    assert "In no arm does the temperature vary" in page
    assert page.count("no arm has an agent") == 2


def test_a_run_without_any_epochs_is_still_reported(tmp_path: Path, arms: Arms) -> None:
    bare = replace(arms["kd"][0], metrics=[])
    page = written(tmp_path / "report.html", {"kd": [bare]})
    assert pictures(page) == []
    assert "No run recorded its temperatures" in page


def test_one_run_of_one_epoch_is_enough(tmp_path: Path, arms: Arms) -> None:
    run = arms["rlkd"][1]
    page = written(tmp_path / "report.html", {"rlkd": [replace(run, metrics=run.metrics[1:2])]})
    assert len(pictures(page)) == 4
    assert "no spread is known" in page
    assert "1 arm, 1 run, 3 epochs<" in page


def test_policies_are_pooled_over_seeds_by_count(tmp_path: Path, arms: Arms) -> None:
    run = arms["rlkd"][1]
    assert run.policy is not None
    other = PolicyMap(
        run.policy.teacher_confidence_edges,
        run.policy.student_confidence_edges,
        [[8.0, None], [2.0, 8.0]],
        [[1, 0], [1, 2]],
    )
    arms["rlkd"][1] = replace(run, policy=other)
    # (4 * 3 + 8 * 1) / 4 = 5
    assert "5.00 over 4 instances" in written(tmp_path / "report.html", arms)


def test_policies_of_different_bins_are_the_users_to_mend(tmp_path: Path, arms: Arms) -> None:
    run = arms["rlkd"][1]
    arms["rlkd"][1] = replace(
        run, policy=PolicyMap([0.0, 1.0], [0.0, 1.0], [[4.0]], [[1]])
    )  # fmt: skip
    with pytest.raises(UserError, match=r"'rlkd'.*different bins"):
        written(tmp_path / "report.html", arms)


def test_what_makes_arms_hard_to_compare_is_said(tmp_path: Path, arms: Arms) -> None:
    other = replace(arms["kd"][1].result, hardware="a GPU", epochs=9, versions={"torch": "2.10"})
    arms["kd"] = [arms["kd"][0], replace(arms["kd"][1], result=other)]
    page = written(tmp_path / "report.html", arms)
    for words in ("different hardware", "package versions", "same number of epochs"):
        assert words in page
    arms["rlkd"] = arms["rlkd"][:1]
    assert "rlkd: one run only" in written(tmp_path / "report.html", arms)


def test_long_runs_show_their_last_epochs_closer(tmp_path: Path, arms: Arms) -> None:
    rows = [{"epoch": float(epoch), "test/top1": epoch / 100} for epoch in range(1, 51)]
    long = {label: [replace(run, metrics=rows) for run in runs] for label, runs in arms.items()}
    # 10 % of the way from epoch 50 back to epoch 1: 50 - 4.9 = 45.1
    assert "From epoch 46" in written(tmp_path / "report.html", long)
    assert "From epoch" not in written(tmp_path / "report.html", arms)


def test_a_report_of_nothing_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to compare"):
        write_report(tmp_path / "report.html", {}, title="", command=None)


def test_durations_are_hours_minutes_seconds() -> None:
    assert [duration(59.6), duration(3725.0), duration(float("nan"))] == [
        "0:01:00",
        "1:02:05",
        "n/a",
    ]
