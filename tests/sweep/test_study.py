"""Studies: their files, the runs they plan, and a small one from start to table."""

import csv
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import silent, tiny

from rlkd.cli import main
from rlkd.commands.compare import IMPLIED, _cell, compare
from rlkd.config.compose import options
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.reporting import read_metrics
from rlkd.reporting.statistics.comparison import compare_cells
from rlkd.sweep import nursery
from rlkd.sweep.nursery import Tried
from rlkd.sweep.runs import waves_of
from rlkd.sweep.side_by_side import _time
from rlkd.sweep.study import plan_study, read_study

pytestmark = pytest.mark.usefixtures("plainly")

ARMS = """
baseline: constant
seeds: [0]
more_seeds: {constant: [1]}
arms:
  followed: [temperature=constant, temperature.temperature=3]
  constant: [temperature=constant]
  agent: [temperature=rlkd, temperature.warmup_epochs=1, temperature.update_interval=1,
    probe.size=16, exploration.enabled=false, temperature.probe_interval=1]
  mean: [temperature=recorded_mean, temperature.like=@agent]
  shuffled: [temperature=random, temperature.like=@agent, temperature.warmup_epochs=0]
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return f"study={path}"


@pytest.mark.parametrize("name", options("study"))
def test_every_packaged_study_reads(name: str) -> None:
    study = read_study(name)
    assert study.baseline in study.arms
    assert study.about


def test_a_plan_has_the_arms_pairs_and_seeds_of_its_study_alone(tmp_path: Path) -> None:
    pairs = "pairs: {one: [student=convnet_tiny], two: [student=convnet_small]}\n"
    given = [written(tmp_path, f"settings: [data=digits]\n{pairs}{ARMS}"), "output=out"]
    study, runs = plan_study([*given, "trainer.epochs=2"])
    names = [run.path.name for run in runs]
    assert names[:5] == [f"pair=one,arm={arm},seed=0" for arm in study.arms]
    assert names[10:] == ["pair=one,arm=constant,seed=1", "pair=two,arm=constant,seed=1"]
    assert {run.config.trainer.epochs for run in runs} == {2}
    assert {run.config.probe.size for run in runs} == {0, 16}  # of an arm that says it itself
    assert [run.config.seed for run in runs] == [0] * 10 + [1] * 2
    networks = {(run.labels["pair"], run.config.student.name) for run in runs}
    assert networks == {("one", "convnet_tiny"), ("two", "convnet_small")}
    follows = {run.labels["arm"]: run.follows for run in runs[:5]}
    assert follows["mean"] == follows["shuffled"] == Path("out/pair=one,arm=agent,seed=0")
    assert follows["agent"] is None
    assert runs[3].config.temperature.like == "out/pair=one,arm=agent,seed=0"

    _, part = plan_study([*given, "arm=constant,agent", "pair=two", "seed=1,0"])
    expected = (("constant", 1), ("constant", 0), ("agent", 0))
    assert [run.path.name for run in part] == [
        f"pair=two,arm={arm},seed={seed}" for arm, seed in expected
    ]


def test_what_follows_comes_last_of_its_seed(tmp_path: Path) -> None:
    given = [written(tmp_path, f"settings: [data=digits]\n{ARMS.replace('[1]', '[1, 2]')}")]
    _, runs = plan_study(given)
    waves = [[runs[number].path.name for number in wave] for wave in waves_of(runs)]
    assert waves == [
        [f"arm={arm},seed=0" for arm in ("followed", "constant", "agent")],
        [f"arm={arm},seed=0" for arm in ("mean", "shuffled")],
        ["arm=constant,seed=1"],
        ["arm=constant,seed=2"],
    ]
    assert waves_of(runs[:3]) == [[0, 1, 2]]


@pytest.mark.long
@pytest.mark.parametrize("name", options("study"))
def test_what_a_packaged_study_plans_can_be_compared(name: str) -> None:
    study = read_study(name)
    arms = [each for each in study.arms if study.followed(each) or each in ("constant_4", "dkd")]
    arms += [str(study.followed(each)) for each in arms if study.followed(each)]
    _, runs = plan_study([f"study={name}", f"arm={','.join(arms)}", "data.root=absent"])
    cells = [_cell(each) for each in runs]
    assert compare_cells(cells, {"arm": "constant_4"}, named=study.chosen, implied=IMPLIED).rows


def test_a_part_holds_out_what_the_whole_holds_out(tmp_path: Path) -> None:
    arms = "arms: {a: [temperature=constant], b: [temperature=rlkd]}"
    given = [written(tmp_path, f"settings: [data=digits]\n{arms}"), "seed=0"]
    assert [run.config.probe.size for run in plan_study([*given, "arm=a"])[1]] == [256]


def test_a_study_extends_another(tmp_path: Path) -> None:
    text = "extends: cifar100_small\nseeds: [7]\narms: {mine: [temperature=cosine]}\n"
    study, base = (
        read_study(written(tmp_path, text).partition("=")[2]),
        read_study("cifar100_small"),
    )
    assert study.arms == {**base.arms, "mine": ["temperature=cosine"]}
    assert (study.settings, study.seeds) == (base.settings, [7])
    text = text.replace("cifar100_small", "cifar100_short")  # which extends the other
    study = read_study(written(tmp_path, text).partition("=")[2])
    assert study.arms == {**base.arms, "mine": ["temperature=cosine"]}
    assert study.pairs.keys() == {"resnet56_resnet8", "resnet56_resnet20"}


def test_each_pairs_teacher_is_the_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "resnet56.pth").write_bytes(b"")
    pairs = "one: [experiment=cifar100_resnet56_resnet20], two: [experiment=cifar100_vgg13_vgg8]"
    arms = "alone: [method=alone, teacher=none], constant: [temperature=constant]"
    study = written(tmp_path, f"pairs: {{{pairs}}}\narms: {{{arms}}}\nseeds: [0]")
    given = [study, f"teachers={tmp_path}", "data.root=absent"]
    _, runs = plan_study([*given, "pair=one"])
    assert [run.config.teacher.checkpoint for run in runs] == [
        None,
        str(tmp_path / "resnet56.pth"),
    ]
    with pytest.raises(UserError, match=r"^teachers=.*: no vgg13\.safetensors there, nor \.pth"):
        plan_study([*given, "pair=two"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["study=cifar100_smal"], "did you mean cifar100_small"),
        (["study=absent.yaml"], "absent.yaml does not exist; give a study of `rlkd ls study`"),
        (["study=cifar100_small", "arm=constnt_4"], "arm=constnt_4: did you mean constant_4"),
        (["study=cifar100_small", "pair=one"], "pair=one: the study has no pairs"),
        (["study=cifar100_small", "seed=1,x"], "seed=1,x: give whole numbers"),
        (["study=cifar100_small", "seed=11"], "seed=11: these arms have seeds 0, 1, 2, 3"),
        (["study=cifar100_small", "arm=look_ahead_mean"], "give arm=look_ahead,look_ahead_mean"),
        (["study=cifar100_240", "teachers=absent"], "teachers=absent: no .* there"),
    ],
)
def test_words_that_a_study_does_not_know_are_refused(
    words: list[str], told: str, refuse: Refuse
) -> None:
    assert_told(refuse("compare", *words), told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("settings: []", "arms is missing"),
        ("arms: {}", "give each arm its overrides"),
        ("arms: {a: []}\nbaseline: b", "arm=b: one of a"),
        ("arms: {a: [temperature.like=@b]}", "arm=b: one of a"),
        ("arms: {a: []}\nseeds: [-1]", "seeds=-1"),
        ("arms: {a: []}\nseeds: []", "seeds=.*: give whole numbers"),
        (
            "arms: {a: [], b: [temperature.like=@a], c: [temperature.like=@b]}",
            "arm=c follows b, which follows another",
        ),
        ("arms: {a: [temperature.like=@a]}", "arm=a follows a, which follows another"),
        ("arms: {a: [+temperature.like=@a]}", "only temperature.like=@ARM is the folder"),
        ("arms: {a: []}\nmore_seeds: {b: [1]}", "arm=b: one of a"),
        ("arms: {a: []}\nrepeats: 3", "repeats"),
        ("arms: {a: 3}", "a"),
        ("arms: {a: [temperature=absent]}", "temperature=absent"),
        ("extends: absent\narms: {a: []}", "study=absent"),
    ],
)
def test_a_file_that_is_no_study_is_refused_by_its_name(
    text: str, told: str, tmp_path: Path, refuse: Refuse
) -> None:
    assert_told(refuse("compare", written(tmp_path, text)), told)


def test_the_time_of_runs_are_those_of_their_steps() -> None:
    _, runs = plan_study(["study=cifar100_choose", "seed=100,101"])
    tried = {number: Tried(seconds=3600.0) for number in range(10)}
    assert _time(runs, range(20), tried, 2) == ", some 10:00:00 of steps"
    some = {number: Tried(seconds=3600.0 * (1 + number)) for number in (0, 2)}
    assert _time(runs, range(4), some, 2) == ", some 4:00:00 of steps"  # 1 + 2 + 3 + 2 hours
    assert _time(runs, [0], tried | {0: Tried(seconds=0.2)}, 2) == ", some 0:00:01 of steps"
    assert _time(runs, [0, 1], tried | {0: Tried()}, 2) == ""
    follower = replace(runs[1], follows=runs[0].path)
    first = {0: Tried(seconds=3600.0)}
    assert _time([runs[0], follower], [0, 1], first, 8) == ", some 2:00:00 of steps"
    assert _time([runs[0], follower], [1], first, 8) == ", some 1:00:00 of steps"


def test_a_run_begins_while_the_one_that_another_follows_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["followed", "follower", "other"]
    settings = [f"output: '{tmp_path / name}'" for name in names]
    made = nursery.Nursery(nursery.Runs(settings, (), [], tmp_path, names, [None, 0, None]))
    began: list[str] = []
    monkeypatch.setattr(nursery, "load", lambda config: began.append(Path(config.output).name))
    ended: dict[int, object] = {}

    def end(number: int, outcome: object) -> None:
        ended[number] = outcome
        (tmp_path / f"{number} has ended").touch()

    def work(number: int) -> object:
        while number == 0 and not (tmp_path / "2 has ended").exists():
            time.sleep(0.01)
        return made._train(number) if number == 1 else None

    made._side_by_side([0, 1, 2], 2, work, end, lambda: None)
    assert began == ["followed", "other", "follower"]
    assert list(ended) == [2, 0, 1]
    assert ended[1] == "followed, which it follows, has not ended"  # it left no result


def test_a_part_without_the_baseline_is_compared_with_its_first_arm(
    teacher_file: Path, tmp_path: Path
) -> None:
    settings = [each for each in tiny(teacher_file, tmp_path / "out") if "temperature" not in each]
    words = [each for each in settings if not each.startswith(("seed", "trainer.epochs", "output"))]
    given = [written(tmp_path, ARMS), *words, "trainer.epochs=1", "jobs=1"]
    given.append(f"output={tmp_path / 'out'}")  # as a shell hands it over: without quotes
    compared = compare([*given, "arm=followed,agent", "seed=0"], console=silent())
    assert compared.baseline == {"arm": "followed"}
    assert (tmp_path / "out" / "compare.html").is_file()


@pytest.mark.long
def test_a_study_runs_what_follows_last_and_keeps_on_with_figures_alone(
    teacher_file: Path, tmp_path: Path
) -> None:
    settings = [each for each in tiny(teacher_file, tmp_path / "out") if "temperature" not in each]
    words = [each for each in settings if not each.startswith(("seed", "output"))]
    given = [written(tmp_path, ARMS), *words, f"output={tmp_path / 'out'}", "jobs=2"]
    compared = compare(given, console=silent())
    assert [row.labels["arm"] for row in compared.rows] == [
        *("followed", "constant", "agent", "mean", "shuffled")
    ]
    assert [row.n for row in compared.rows] == [1, 2, 1, 1, 1]
    assert compared.baseline == {"arm": "constant"}
    agent, mean = (
        [row["temperature/mean"] for row in read_metrics(RunFolder(path).metrics)]
        for path in (tmp_path / "out" / f"arm={arm},seed=0" for arm in ("agent", "mean"))
    )
    assert mean == pytest.approx(agent, rel=1e-5)
    assert len(set(agent)) > 1

    for folder in (tmp_path / "out").glob("arm=*"):
        kept = {each: (folder / each).read_bytes() for each in ("config.yaml", "metrics.csv")}
        kept["result.json"] = (folder / "result.json").read_bytes()
        shutil.rmtree(folder)
        folder.mkdir()
        for name, held in kept.items():
            (folder / name).write_bytes(held)
    moved = Path(shutil.move(tmp_path / "out", tmp_path / "kept_0"))
    given[-2] = f"output={moved}"
    again = compare(given, console=silent())
    assert [row.mean for row in again.rows] == [row.mean for row in compared.rows]
    assert not list(moved.glob("arm=*/student.safetensors"))
    with (moved / "runs.csv").open(newline="") as file:
        assert {row["state"] for row in csv.DictReader(file)} == {"done"}


def test_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "study"]) == 0
    assert "cifar100_small" in capsys.readouterr().out
