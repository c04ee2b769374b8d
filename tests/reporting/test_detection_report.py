import csv
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.reporting.conftest import Arms

from rlkd.errors import UserError
from rlkd.reporting import DetectionScores, Result, Scores, compare_arms, write_report
from rlkd.reporting.pages import (
    class_by_class,
    comparison_csv,
    comparison_html,
    comparison_markdown,
    comparison_runs_csv,
    networks_of,
)
from rlkd.reporting.statistics.comparison import Cell, compare_cells

MakeResult = Callable[..., Result]


def found(ap: float, **per_class: float) -> DetectionScores:
    return DetectionScores(ap, ap + 0.2, ap + 0.1, math.nan, ap, ap, per_class)


@pytest.fixture
def detections(arms: Arms) -> Arms:
    """The same runs, of detection: AP 0.2 and 0.3 for kd, 0.3 and 0.4 for rlkd; teacher 0.5."""
    made: Arms = {}
    for label, runs in arms.items():
        for run in runs:
            ap = 0.2 + 0.1 * run.result.seed + (0.1 if label == "rlkd" else 0.0)
            test = found(ap, circle=ap, square=math.nan if label == "kd" else 0.25)
            teacher = found(0.5, circle=0.6, square=0.4)
            rows = [
                {key: value for key, value in row.items() if key != "test/top1"}
                | {
                    f"test/{name}": value * row["epoch"] / 3
                    for name, value in test.figures().items()
                }
                for row in run.metrics
            ]
            result = replace(run.result, test=test, teacher=teacher)
            made.setdefault(label, []).append(replace(run, result=result, metrics=rows))
    return made


def written(path: Path, arms: Arms) -> str:
    write_report(path, arms, title="Shapes", command=None)
    return path.read_text(encoding="utf-8")


def tables(page: str) -> list[list[list[str]]]:
    return [
        [
            re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)
            for line in re.findall(r"<tr>.*?</tr>", each)
        ]
        for each in re.findall(r"<table>.*?</table>", page, re.DOTALL)
    ]


def test_a_report_draws_ap_over_the_epochs(tmp_path: Path, detections: Arms) -> None:
    page = written(tmp_path / "report.html", detections)
    drawn = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    titles = [each[0].text for each in drawn]
    assert titles[:2] == ["Test AP over training", "Test AP50 and AP75 over training"]
    assert len(titles) == 5
    words = [each.text for each in drawn[1].iter() if each.tag.endswith("text")]
    assert "AP50, %" in words
    assert "AP75, %" in words
    # The teacher's AP50 is 0.5 + 0.2, its AP75 0.5 + 0.1.
    assert "teacher, 70.00 %" in words
    assert "teacher, 60.00 %" in words


def test_a_report_of_detection_never_speaks_of_accuracy(tmp_path: Path, detections: Arms) -> None:
    page = written(tmp_path / "report.html", detections)
    assert not re.search(r"top-1|top-5|accuracy|\bnan\b", page, re.IGNORECASE)
    assert "AP over IoU 0.50 to 0.95 on the test split after the last epoch" in page
    assert "AP 50.00 %, AP50 70.00 %, AP75 60.00 % on the test split" in page


def test_the_teacher_heads_every_table_of_classes(tmp_path: Path, detections: Arms) -> None:
    page = written(tmp_path / "report.html", detections)
    results, every_run, in_full, classes = tables(page)
    assert results[0][:4] == ["arm", "n", "AP, %", "sd"]
    # kd: 0.2 and 0.3, deviations 0.05, so sd = sqrt(2 * 0.05^2) = 0.0707.
    assert results[1][:4] == ["kd", "2", "25.00", "7.07"]
    assert every_run[0][3:9] == [
        "AP, %", "AP50, %", "AP75, %", "AP small, %", "AP medium, %", "AP large, %",
    ]  # fmt: skip
    assert in_full[1] == ["teacher", "50.00", "70.00", "60.00", "n/a", "50.00", "50.00"]
    assert classes == [
        ["class", "teacher", "kd", "rlkd"],
        ["circle", "60.00", "25.00", "35.00"],
        ["square", "40.00", "n/a", "25.00"],
    ]


def test_a_class_that_a_network_does_not_know_has_no_figure() -> None:
    scores = found(0.5, circle=0.25, square=0.75)
    words = class_by_class({"teacher": [scores], "student": [found(0.4, square=0.5)]})
    assert words is not None
    assert words.header == ["class", "teacher", "student"]
    assert words.rows == [["circle", "25.00", "n/a"], ["square", "75.00", "50.00"]]
    assert class_by_class({"student": [found(0.4)]}) is None


def test_each_arm_is_told_with_its_own_teacher_where_they_differ(detections: Arms) -> None:
    assert list(networks_of(detections)) == ["teacher", "kd", "rlkd"]
    first = detections["kd"][0]
    detections["kd"][0] = replace(first, result=replace(first.result, teacher_sha256="cafe" * 16))
    assert list(networks_of(detections)) == ["teacher of kd", "teacher of rlkd", "kd", "rlkd"]
    alone = replace(first, result=replace(first.result, teacher=None, teacher_sha256=None))
    assert list(networks_of({"kd": [alone]})) == ["kd"]


def cells(make: MakeResult, *scores: Sequence[DetectionScores | Scores]) -> list[Cell]:
    return [
        Cell(
            {"method": name},
            seed,
            replace(make(seed=seed), test=each, teacher=None, validation=each),
        )
        for name, runs in zip("abc", scores, strict=False)
        for seed, each in enumerate(runs)
    ]


def test_a_comparison_of_detection_speaks_of_ap(make_result: MakeResult) -> None:
    pairs = [found(0.30), found(0.31)], [found(0.32), found(0.34)]
    comparison = compare_cells(cells(make_result, *pairs))
    assert comparison_markdown(comparison).splitlines()[0].startswith("| method | n | AP, % | sd |")
    everything = comparison_markdown(comparison) + comparison_html(comparison, title="t")
    assert not re.search(r"top-1|accuracy", everything, re.IGNORECASE)
    assert "AP over IoU 0.50 to 0.95 on the test split after the last epoch" in everything
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert float(rows[1]["ap_mean"]) == pytest.approx(0.33)
    # Differences 0.02 and 0.03.
    assert float(rows[1]["difference"]) == pytest.approx(0.025)
    runs = list(csv.DictReader(io.StringIO(comparison_runs_csv(comparison))))
    assert list(runs[0])[4:11] == [
        "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "validation_ap",
    ]  # fmt: skip
    assert (runs[3]["ap"], runs[3]["ap_small"], runs[3]["validation_ap"]) == ("0.34", "", "0.34")


def test_a_run_without_ap_counts_as_failed(make_result: MakeResult) -> None:
    rows = compare_cells(cells(make_result, [found(0.3)], [found(math.nan)])).rows
    assert rows[1].cells[0].state == "failed: the run diverged, its last epoch has no AP"


def test_one_arm_alone_is_compared_with_nothing(arms: Arms, detections: Arms) -> None:
    lines = comparison_markdown(compare_arms({"kd": detections["kd"]})).splitlines()
    assert lines[0] == "| arm | n | AP, % | sd | images/s |"
    assert lines[2] == "| kd | 2 | 25.00 | 7.07 | 1,000 |"
    assert "Differences" not in "".join(lines)


def test_both_kinds_in_one_comparison_are_the_users_to_mend(
    tmp_path: Path, make_result: MakeResult, arms: Arms, detections: Arms
) -> None:
    mixed = cells(make_result, [found(0.3)], [Scores(0.7, 0.9, 1.0)])
    with pytest.raises(UserError, match="'method=a seed=0' is scored by AP and 'method=b seed=0'"):
        compare_cells(mixed)
    both = {"kd": arms["kd"], "rlkd": detections["rlkd"]}
    with pytest.raises(
        UserError, match="'arm=kd seed=0' is scored by top-1 and 'arm=rlkd seed=0' by AP"
    ) as caught:
        write_report(tmp_path / "report.html", both, title="", command=None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()
