import csv
from pathlib import Path

import pytest
from tests.training.runs import silent, tiny

from rlkd.errors import UserError
from rlkd.training import comparing
from rlkd.training.comparing import compare

pytestmark = pytest.mark.usefixtures("plainly")


def grid(teacher: Path, output: Path, *more: str) -> list[str]:
    kept = [each for each in tiny(teacher, output) if not each.startswith(("temperature", "seed"))]
    return [*kept, *more]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_combination_is_run_once_and_told(teacher_file: Path, tmp_path: Path) -> None:
    swept = grid(teacher_file, tmp_path / "out", "temperature=constant,ctkd", "seed=0,1")
    compared = compare(swept, console=silent())
    assert [row.labels for row in compared.rows] == [
        {"temperature": "constant"},
        {"temperature": "ctkd"},
    ]
    assert [row.n for row in compared.rows] == [2, 2]
    told = rows(tmp_path / "out" / "runs.csv")
    assert [(row["temperature"], row["seed"], row["state"]) for row in told] == [
        ("constant", "0", "done"),
        ("constant", "1", "done"),
        ("ctkd", "0", "done"),
        ("ctkd", "1", "done"),
    ]
    assert "paired by seed" in (tmp_path / "out" / "compare.md").read_text()

    students = sorted((tmp_path / "out").glob("*/student.safetensors"))
    written = [each.stat().st_mtime_ns for each in students]
    again = compare(swept, console=silent())
    assert len(students) == 4
    assert [each.stat().st_mtime_ns for each in students] == written
    assert [row.mean for row in again.rows] == [row.mean for row in compared.rows]


def test_a_run_that_fails_is_told_and_stops_no_other(teacher_file: Path, tmp_path: Path) -> None:
    # ctkd_instance is made for 100 classes and says so at its first batch; digits have 10
    swept = grid(teacher_file, tmp_path / "out", "temperature=ctkd_instance,constant", "seed=0")
    compared = compare(swept, console=silent())
    states = {row["temperature"]: row["state"] for row in rows(tmp_path / "out" / "runs.csv")}
    assert states["constant"] == "done"
    assert "num_classes" in states["ctkd_instance"]
    assert [row.n for row in compared.rows] == [0, 1]


def test_nothing_runs_when_one_combination_does_not_compose(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr(comparing, "run", never)
    with pytest.raises(UserError, match="temperature=constnt: did you mean constant"):
        compare(grid(teacher_file, tmp_path / "out", "temperature=rlkd,constnt"), console=silent())
    with pytest.raises(UserError, match="nothing to compare"):
        compare(grid(teacher_file, tmp_path / "out", "seed=0,1"), console=silent())
    assert not (tmp_path / "out").exists()


def test_each_combination_may_have_a_baseline_of_its_own(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("not run in this test")

    monkeypatch.setattr(comparing, "run", fail)
    swept = grid(teacher_file, tmp_path / "out", "method=kd,sp", "temperature=constant,ctkd")
    with pytest.raises(UserError, match="every run failed"):
        compare([*swept, "baseline=temperature=constant"], console=silent())
    told = rows(tmp_path / "out" / "compare.csv")
    baselines = [row["method"] for row in told if row["verdict"].startswith("baseline")]
    assert baselines == ["kd", "sp"]
    with pytest.raises(UserError, match="baseline=temperature: give values"):
        compare([*swept, "baseline=temperature"], console=silent())
    with pytest.raises(UserError, match="'optimizer', which is not swept"):
        compare([*swept, "baseline=optimizer=sgd"], console=silent())


def test_when_every_run_fails_the_comparison_fails(teacher_file: Path, tmp_path: Path) -> None:
    swept = grid(teacher_file, tmp_path / "out", "method=kd,sp", "temperature=ctkd_instance")
    with pytest.raises(UserError, match=r"every run failed.*num_classes"):
        compare(swept, console=silent())
