import csv
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import fingerprint, silent, tiny

from rlkd.cli import main
from rlkd.commands.compare import compare, multirun
from rlkd.engine import run as running
from rlkd.engine.run_folder import RunFolder, as_stored
from rlkd.errors import UserError
from rlkd.sweep import plan as planning
from rlkd.sweep import runs

pytestmark = pytest.mark.usefixtures("plainly")


def grid(teacher: Path, output: Path, *more: str) -> list[str]:
    kept = [each for each in tiny(teacher, output) if not each.startswith(("temperature", "seed"))]
    return [*kept, *more]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
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


def test_a_run_that_fails_is_told_and_stops_no_other(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_or_fail(config: DictConfig, **given: Any) -> None:
        if "temperature=ctkd," in config.output:
            raise UserError("a reason")
        run(config, **given)

    run = running.run
    monkeypatch.setattr(running, "run", run_or_fail)
    swept = grid(teacher_file, tmp_path / "out", "temperature=ctkd,ctkd_instance", "seed=0")
    with pytest.raises(UserError, match=r"^1 of 2 runs failed, the first with: a reason$"):
        compare(swept, console=silent())
    states = {row["temperature"]: row["state"] for row in rows(tmp_path / "out" / "runs.csv")}
    assert states == {"ctkd": "failed: a reason", "ctkd_instance": "done"}
    told = rows(tmp_path / "out" / "compare.csv")
    assert [row["n"] for row in told] == ["0", "1"]


@pytest.mark.parametrize("verb", [("compare",), ("distill", "--multirun")])
def test_a_combination_that_does_not_fit_is_told_before_any_is_trained(
    teacher_file: Path, tmp_path: Path, refuse: Refuse, verb: tuple[str, ...]
) -> None:
    sizes = ("trainer.validation_size=0,99", "seed=0,1")
    told = refuse(*verb, *grid(teacher_file, tmp_path / "out", "temperature=constant", *sizes))
    assert_told(told, "trainer.validation_size=99 cannot be trained, so no run was begun: ")


def test_a_folder_of_another_run_is_refused_before_the_table_is_touched(
    teacher_file: Path, tmp_path: Path, refuse: Refuse
) -> None:
    out = tmp_path / "out"
    other = RunFolder(out / "temperature=ctkd,seed=0")
    other.path.mkdir(parents=True)
    other.config.write_text(as_stored("trainer: {epochs: 1}\n"))
    other.result.write_text("{}")
    (out / "compare.md").write_text("an earlier table")
    swept = grid(teacher_file, out, "temperature=constant,ctkd", "seed=0")
    assert_told(refuse("compare", *swept), "ctkd,seed=0 already holds a different run")


def test_what_a_check_cannot_do_is_left_to_the_run(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(running, "run", break_down)
    monkeypatch.setattr(runs, "_prepare", break_down)
    swept = grid(teacher_file, tmp_path / "out", "temperature=constant,ctkd", "seed=0")
    told = "2 of 2 runs failed, the first with: RuntimeError: out of memory"
    with pytest.raises(UserError, match=told):
        compare(swept, console=silent())
    assert (tmp_path / "out" / "compare.md").is_file()


def test_nothing_runs_when_one_combination_does_not_compose(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr(running, "run", never)
    with pytest.raises(UserError, match="temperature=constnt: did you mean constant"):
        compare(grid(teacher_file, tmp_path / "out", "temperature=rlkd,constnt"), console=silent())
    with pytest.raises(UserError, match="nothing to compare"):
        compare(grid(teacher_file, tmp_path / "out", "seed=0,1"), console=silent())
    assert not (tmp_path / "out").exists()


def test_a_setting_that_one_swept_part_lacks_is_said_to_be_the_others(
    teacher_file: Path, tmp_path: Path
) -> None:
    words = ("temperature=rlkd,constant", "temperature.probe_interval=4")
    told = (
        r"^temperature=constant has no setting temperature\.probe_interval: leave it out, or "
        r"compare arms that have settings of their own \(study=FILE\.yaml\)$"
    )
    with pytest.raises(UserError, match=told):
        compare(grid(teacher_file, tmp_path / "out", *words), console=silent())
    words = ("temperature=constant,rlkd", "temperature.temperature=2")  # which the default lacks
    with pytest.raises(UserError, match=r"^temperature=rlkd has no setting temperature\.temp"):
        planning.plan(grid(teacher_file, tmp_path / "out", *words))
    words = ("temperature=linear,cosine", "temperature.start=5")
    starts = [
        each.config.temperature.start
        for each in planning.plan(grid(teacher_file, tmp_path, *words))
    ]
    assert starts == [5, 5]
    told = "there is no setting temperature.strat: did you mean temperature.start"
    with pytest.raises(UserError, match=told):
        planning.plan(grid(teacher_file, tmp_path, words[0], "temperature.strat=5"))
    told = "there is no setting trainer.epoch: did you mean trainer.epochs"
    with pytest.raises(UserError, match=told):
        compare(grid(teacher_file, tmp_path / "out", words[0], "trainer.epoch=4"), console=silent())


def test_each_combination_may_have_a_baseline_of_its_own(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("not run in this test")

    monkeypatch.setattr(running, "run", fail)
    monkeypatch.setattr(runs, "_require_trainable", lambda *_: None)
    swept = grid(teacher_file, tmp_path / "out", "method=kd,sp", "temperature=constant,ctkd")
    with pytest.raises(UserError, match="4 of 4 runs failed, the first with: not run in"):
        compare([*swept, "baseline=temperature=constant"], console=silent())
    told = rows(tmp_path / "out" / "compare.csv")
    baselines = [row["method"] for row in told if row["verdict"].startswith("baseline")]
    assert baselines == ["kd", "sp"]
    with pytest.raises(UserError, match="baseline=temperature: give values"):
        compare([*swept, "baseline=temperature"], console=silent())
    with pytest.raises(UserError, match="'optimizer', which is not swept"):
        compare([*swept, "baseline=optimizer=sgd"], console=silent())


def test_a_baseline_is_written_as_any_setting_is(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("not run in this test")

    monkeypatch.setattr(running, "run", fail)
    monkeypatch.setattr(runs, "_require_trainable", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "b, c=1.pth"):
        Path(name).touch()
    files = "teacher.checkpoint=choice(a.pth,'b, c=1.pth')"
    bands = "exploration.mixed=[0.1,0.2],[0.0,0.1]"
    swept = [*grid(teacher_file, tmp_path / "out", "temperature=constant"), files, bands]
    for word in (
        "baseline=exploration.mixed=[0.0, 0.1],teacher.checkpoint='b, c=1.pth'",
        "baseline=teacher.checkpoint=b, c=1.pth,exploration.mixed=[0.0,0.1]",
    ):
        with pytest.raises(UserError, match="4 of 4 runs failed, the first with: not run in"):
            compare([*swept, word], console=silent())
        told = rows(tmp_path / "out" / "compare.csv")
        (baseline,) = (row for row in told if row["verdict"].startswith("baseline"))
        values = (baseline["teacher.checkpoint"], baseline["exploration.mixed"])
        assert values == ("b, c=1.pth", "[0.0,0.1]")


@pytest.mark.long
def test_a_multirun_does_what_a_comparison_then_finds_done(
    teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    swept = grid(teacher_file, out, "temperature=constant,ctkd", "seed=0")
    assert main(["distill", "--multirun", *swept]) == 0
    told = capsys.readouterr().out
    assert told.count(": done") == 2
    assert told.splitlines()[-1] == f"everything is in {out}"
    folders = [RunFolder(each) for each in sorted(out.iterdir())]
    assert [each.path.name for each in folders] == [
        "temperature=constant,seed=0",
        "temperature=ctkd,seed=0",
    ]
    before = [fingerprint(each.path) for each in folders]
    compared = compare(swept, console=silent())
    assert [row.n for row in compared.rows] == [1, 1]
    assert [fingerprint(each.path) for each in folders] == before


def test_a_multirun_over_seeds_alone_is_one_and_its_failures_end_it(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def fail_once(config: DictConfig, **_: object) -> None:
        seeds.append(config.seed)
        if config.seed == 1:
            raise UserError("a reason")

    monkeypatch.setattr(running, "run", fail_once)
    monkeypatch.setattr(runs, "_require_trainable", lambda *_: None)
    with pytest.raises(UserError, match="1 of 3 runs failed, the first with: a reason"):
        multirun(
            grid(teacher_file, tmp_path / "out", "temperature=constant", "seed=0,1,2"),
            console=silent(),
        )
    assert seeds == [0, 1, 2]
    with pytest.raises(UserError, match="--multirun is for several runs"):
        multirun(grid(teacher_file, tmp_path / "out", "seed=0"), console=silent())


def test_several_values_without_multirun_say_what_they_are_for(
    teacher_file: Path, tmp_path: Path, refuse: Refuse
) -> None:
    told = refuse("distill", *grid(teacher_file, tmp_path / "out", "seed=0,1"))
    assert_told(told, "seed=0,1: several values are for `rlkd compare`, or for --multirun")


@pytest.mark.parametrize("swept", ["seed=0,0", "student.checkpoint=choice(a/b.pth,a_b.pth)"])
def test_runs_that_would_have_one_folder_are_refused(swept: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two runs would have one folder, "):
        planning.plan([swept, "temperature=constant", f"output={tmp_path}"])


def test_a_name_too_long_for_a_folder_ends_in_its_hash(tmp_path: Path) -> None:
    names = [planning.named_run(tmp_path, {"a": f"{'ü' * 150}{end}"}, 0).name for end in "xy"]
    assert names[0] != names[1]
    assert all(len(name.encode()) <= 200 for name in names)
    (tmp_path / f"{names[0]}.log").touch()
    assert planning.named_run(tmp_path, {"a": "x"}, 0).name == "a=x,seed=0"
