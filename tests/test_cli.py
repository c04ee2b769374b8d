"""What the command line answers: exit codes, one line for what the user can mend."""

from pathlib import Path

import pytest
from tests.training.refusal import assert_told

from rlkd.cli import HELP, main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["distil"], "there is no verb distil: .*distill"),
        (["ls", "networks"], "there is no group networks: use one of data, teacher"),
        (["evaluate"], "nothing to evaluate: give teacher.checkpoint=FILE"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    found = capsys.readouterr().err
    assert len(found.splitlines()) == 1
    assert_told(found, told)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "trainer.epochs=0", "--debug"]) == 2
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert (
        told.splitlines()[-1]
        == "rlkd: trainer.epochs=0: give a whole number of at least 1, at most 1000000000"
    )


def test_an_error_is_one_line_whatever_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "trainer.epoch\n=a\u2028b"]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert told.startswith("rlkd: trainer.epoch =a b: ")


def test_what_is_printed_is_the_path_whatever_its_brackets_mean_to_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "[red]" / "[" / "bold] :smile:"
    words = ("data.limit=16", "trainer.epochs=1", "trainer.accelerator=cpu", f"output={output}")
    assert main(["train", "student=convnet_tiny", *words]) == 0
    assert f"everything is in {output}\n" in capsys.readouterr().out
    assert main(["train", "student=convnet_tiny", *words]) == 0
    assert f"{output} is complete already\n" in capsys.readouterr().out


def test_a_bug_is_told_from_what_the_user_can_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("rlkd.commands.verbs.show", broken)
    assert main(["show"]) == 1
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert "this is a bug" in told


def test_ctrl_c_outside_of_training_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlkd.commands.verbs.show", interrupted)
    assert main(["show"]) == 130
    assert capsys.readouterr().err == "rlkd: interrupted\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"], ["export", "--help"]])
def test_help_names_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == HELP
    verbs = {"compare", "demo", "distill", "evaluate", "export", "ls", "predict", "show", "train"}
    for verb in verbs | {"validate"}:
        assert f"rlkd {verb} " in HELP
