"""`--json`: standard output is one object for a program, and all else is on standard error."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from tests.support.runs import SOURCES, TINY, tiny

from rlkd.cli import main
from rlkd.commands import VERBS, WITH_JSON
from rlkd.engine import run as running
from rlkd.errors import UserError

pytestmark = pytest.mark.usefixtures("plainly")

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command with --json; return the object, having seen that it is all of the output."""

    def ask(*words: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*words, "--json"]) == 0
        out, told = capsys.readouterr()
        assert out.endswith("}\n")
        assert out.isascii()
        assert out.count("\n") == 1
        assert told == "" or words[0] not in ("evaluate", "doctor") or "{" not in told
        return json.loads(out, parse_constant=pytest.fail)

    return ask


def test_distill_and_evaluate_say_what_result_json_says(
    ask: Ask, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a é run"
    settings = tiny(teacher_file, run, *SOURCES["constant"], "trainer.epochs=1")
    found = ask("distill", *settings)
    held = json.loads((run / "result.json").read_text())
    del held["format"]
    assert found == {"output": str(run), "result": held}
    assert main(["distill", *settings, "--json"]) == 0
    out, told = capsys.readouterr()
    assert json.loads(out) == found
    assert f"everything is in {run}" in told
    assert ask("evaluate", f"run={run}") == {"student": held["test"]}


def test_compare_says_what_its_tables_say(ask: Ask, teacher_file: Path, tmp_path: Path) -> None:
    kept = [each for each in tiny(teacher_file, tmp_path / "out") if "temperature" not in each]
    words = [*kept, "trainer.epochs=1", "temperature=constant,random", "seed=0,1"]
    found = ask("compare", *words)
    assert found["output"] == str(tmp_path / "out")
    for name, file in (("combinations", "compare.csv"), ("runs", "runs.csv")):
        with (tmp_path / "out" / file).open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        shown = [
            {key: "" if value is None else str(value) for key, value in row.items()}
            for row in found[name]
        ]
        assert shown == rows
    assert [each["n"] for each in found["combinations"]] == [2, 2]
    several = ask("distill", "-m", *words)
    assert several["output"] == str(tmp_path / "out")
    assert [each["output"] for each in several["runs"]] == [
        each["folder"] for each in sorted(found["runs"], key=lambda run: run["seed"])
    ]
    first = json.loads((Path(several["runs"][0]["output"]) / "result.json").read_text())
    assert several["runs"][0]["result"]["test"] == first["test"]


@pytest.mark.long
def test_train_and_demo_speak_it_too(ask: Ask, tmp_path: Path) -> None:
    small = [each for each in TINY if not each.startswith("trainer.epochs")]
    found = ask(
        "train", "student=convnet_tiny", *small, "trainer.epochs=1", "output=" + str(tmp_path / "a")
    )
    assert found["result"]["teacher"] is None
    given = ["data.limit=200", "trainer.epochs=2", "exploration.epochs=1"]
    shown = ask("demo", "seeds=3", f"output={tmp_path / 'demo'}", *given)
    assert shown["report"] == str(tmp_path / "demo" / "report.html")
    assert shown["at_a_glance"].startswith("RLKD against constant T")
    assert [each["arm"] for each in shown["combinations"]] == [
        *("student alone", "constant T", "random T", "RLKD"),
    ]


def test_what_fails_leaves_standard_output_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"run={tmp_path}", "--json"]) == 2
    out, told = capsys.readouterr()
    assert out == ""
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("verb", [each for each in VERBS if each not in (*WITH_JSON, "validate")])
def test_verbs_that_have_none_say_so(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"rlkd: there is no --json here: it is for {', '.join(WITH_JSON)}"


@pytest.mark.parametrize("verb", WITH_JSON)
def test_help_names_it_where_it_is(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_a_comparison_of_which_runs_failed_says_what_the_others_came_to(
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = running.run

    def failing(config: DictConfig, **options: Any) -> Any:
        if config.temperature._target_.endswith("RandomTemperature"):
            raise UserError("a reason")
        return train(config, **options)

    monkeypatch.setattr(running, "run", failing)
    kept = [each for each in tiny(teacher_file, tmp_path / "out") if "temperature" not in each]
    words = [*kept, "trainer.epochs=1", "temperature=constant,random"]
    assert main(["compare", *words, "--json"]) == 2
    shown, said = capsys.readouterr()
    assert "1 of 2 runs failed, the first with: a reason" in said
    rows = {row["temperature"]: row for row in json.loads(shown)["combinations"]}
    assert (rows["constant"]["n"], rows["random"]["n"]) == (1, 0)
