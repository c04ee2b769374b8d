"""The command line: help, exit codes, and one line for what the user can fix."""

import errno
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest
from tests.support.refusal import assert_told

from rlkd.cli import _console, main
from rlkd.commands import VERBS
from rlkd.config.overrides import parse


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["distil"], "there is no verb distil: .*distill"),
        (["ls", "networks"], "there is no group networks: use one of data, teacher"),
        (["--loud", "show"], "No such option"),
        (["show", "--loud"], "--loud is no setting: give KEY=VALUE"),
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


def test_a_message_without_end_is_cut_in_its_middle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", f"seed={'9' * 5000}"]) == 2
    line = capsys.readouterr().err
    assert len(line) < 2100
    assert line.startswith("rlkd: seed=999")
    assert "give " in line[-500:]


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
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("rlkd.commands.verbs.show", broken)
    assert main(["show"]) == 1
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert "this is a bug" in told


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENAMETOOLONG])
def test_a_path_that_may_not_be_used_is_no_bug(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), "/theirs/run")

    monkeypatch.setattr("rlkd.commands.verbs.show", broken)
    why = os.strerror(code)
    assert main(["show"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [f"rlkd: /theirs/run: {why}; give another path, or make it accessible"]


def test_ctrl_c_outside_of_training_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlkd.commands.verbs.show", interrupted)
    assert main(["show"]) == 130
    assert capsys.readouterr().err == "rlkd: interrupted\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_has_a_line_for_each_verb(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    _, _, listed = shown.partition("Commands:\n")
    assert [line.split()[0] for line in listed.splitlines()[: len(VERBS)]] == list(VERBS)
    assert "Exit codes: 0 done; 2 yours to fix" in shown


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_has_its_arguments_and_two_examples(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "seed=1", "--help"]) == 0
    shown = capsys.readouterr().out
    assert main(["help", verb]) == 0
    assert capsys.readouterr().out == shown
    lines = [line.split() for line in shown.replace("\\\n", "").splitlines()]
    examples = [words[2:] for words in lines if words[:2] == ["rlkd", verb]]
    assert len(examples) >= 2
    plain = verb in ("ls", "cache", "teachers")  # whose words are names and folders too
    for word in chain.from_iterable(examples):
        assert (plain and "=" not in word) or parse(word.removeprefix("baseline="))


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlkd {version('rlkd')}\n"


def test_help_is_quick() -> None:
    script = (
        "import sys; from rlkd.cli import main; main(['--help']); main(['distill', '--help']); "
        "assert {'torch', 'rich', 'hydra', 'lightning'}.isdisjoint(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("typed", "shell", "completed"),
    [
        (["di"], "zsh", ["distill"]),
        (["distill", "task="], "zsh", ["task=classification", "task=detection"]),
        (["train", "seed=1", "optimizer=a"], "fish", ["optimizer=adamw"]),
        (["train", "optimizer", "=", "a"], "bash", ["adamw"]),
        (["train", "optimizer", "="], "bash", ["adamw", "sgd"]),
    ],
)
def test_verbs_and_choices_are_completed(
    typed: list[str],
    shell: str,
    completed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_RLKD_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", shlex.join(["rlkd", *typed]))
    monkeypatch.setenv("COMP_CWORD", typed[-1] if shell == "fish" else str(len(typed)))
    assert main([]) == 0
    shown = capsys.readouterr().out
    for word in completed:
        assert word in re.split(r"[\s,]+", shown)
    assert len(re.findall(r"plain", shown)) == len(completed)


def test_threads_that_wait_soon_leave_the_processor_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for policy, given, found in (
        (None, None, "1000"),
        (None, "7", "7"),
        ("ACTIVE", None, None),
    ):
        for name, value in (("OMP_WAIT_POLICY", policy), ("GOMP_SPINCOUNT", given)):
            monkeypatch.setenv(name, "")  # so that it is as it was afterwards
            monkeypatch.delenv(name)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert main(["--version"]) == 0
        assert os.environ.get("GOMP_SPINCOUNT") == found


def test_a_log_is_as_wide_as_the_tables_of_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # nor is pytest's output a terminal
    assert _console(quiet=False, stderr=False).width == 160
    monkeypatch.setenv("COLUMNS", "72")
    assert _console(quiet=False, stderr=False).width == 72
