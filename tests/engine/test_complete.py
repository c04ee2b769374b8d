"""A run is complete with the student that it left, wherever its folder lies."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.marks import but_long
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import SOURCES, as_users_call, fingerprint, silent, tiny

from rlkd.commands.compare import compare
from rlkd.engine.run import distill
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import Result

pytestmark = pytest.mark.usefixtures("plainly")

SETTINGS = ("trainer.epochs=1", *SOURCES["constant"])
Told = Callable[[], list[str]]


@pytest.fixture(scope="module")
def ended(teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of one epoch that has ended."""
    folder = RunFolder(tmp_path_factory.mktemp("ended") / "run")
    with as_users_call():
        distill(tiny(teacher_file, folder.path, *SETTINGS), console=silent())
    return folder


@pytest.fixture
def run(ended: RunFolder, tmp_path: Path) -> RunFolder:
    """The same, in a folder that it was moved to."""
    shutil.copytree(ended.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def flip(path: Path) -> None:
    """Damage the last weight, as a disk may."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def another(path: Path) -> None:
    """Put a network's weights there that are as large, and other ones."""
    save_file({name: torch.zeros_like(each) for name, each in load_file(path).items()}, path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "damaged": flip,
    "another network's": another,
    "empty": lambda path: os.truncate(path, 0),
}


def again(teacher: Path, folder: RunFolder, *more: str) -> tuple[Result, list[str]]:
    """Give the same command again; return what it says in figures and in lines."""
    console = silent()
    result = distill(tiny(teacher, folder.path, *SETTINGS, *more), console=console)
    return result, console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_folder_that_was_moved_is_the_same_run(teacher_file: Path, run: RunFolder) -> None:
    before = fingerprint(run.path)
    result, told = again(teacher_file, run)
    assert told == [f"{run.path} is complete already"]
    assert result == Result.read(run.result)
    assert fingerprint(run.path) == before


@pytest.mark.long
def test_a_folder_that_was_moved_goes_on(
    teacher_file: Path, run: RunFolder, ended: RunFolder
) -> None:
    run.result.unlink()
    _, told = again(teacher_file, run)
    assert f"resuming from {run.checkpoint}" in told
    assert run.student.read_bytes() == ended.student.read_bytes()


@pytest.mark.parametrize("damage", but_long(DAMAGES, "damaged"))
def test_a_run_without_its_student_writes_it_again(
    damage: str, teacher_file: Path, run: RunFolder, ended: RunFolder
) -> None:
    DAMAGES[damage](run.student)
    found = run.student.read_bytes() if run.student.exists() else None
    result, told = again(teacher_file, run)
    assert run.student.read_bytes() == ended.student.read_bytes()
    assert result.test == Result.read(ended.result).test
    assert Result.read(run.result) == result
    aside = run.path / "student.safetensors.damaged"
    assert found == (aside.read_bytes() if aside.exists() else None)
    said = f"{run.student} is missing" if found is None else f"set aside as {aside.name}"
    assert [each for each in told if said in each and "from the last checkpoint" in each]
    assert again(teacher_file, run)[1] == [f"{run.path} is complete already"]


@pytest.mark.parametrize("damage", but_long(DAMAGES, "missing"))
def test_a_run_with_neither_its_student_nor_a_checkpoint_is_refused(
    damage: str, refuse: Refuse, teacher_file: Path, run: RunFolder
) -> None:
    DAMAGES[damage](run.student)
    shutil.rmtree(run.checkpoints.folder)
    line = refuse("distill", *tiny(teacher_file, run.path, *SETTINGS))
    assert_told(line, "student.safetensors is .*has no checkpoint to write it from: put a copy")


@pytest.mark.parametrize("damage", but_long(DAMAGES, "another network's"))
@pytest.mark.parametrize("verb", ["evaluate", "predict", "export"])
def test_a_student_that_the_run_did_not_leave_is_not_used_for_it(
    verb: str, damage: str, refuse: Refuse, run: RunFolder, tmp_path: Path
) -> None:
    DAMAGES[damage](run.student)
    more = {
        "evaluate": [],
        "predict": [f"images={tmp_path}", f"output={tmp_path / 'answers'}"],
        "export": ["format=safetensors", f"to={tmp_path / 'student.safetensors'}"],
    }[verb]
    line = refuse(verb, f"run={run.path}", *more)
    assert_told(line, "student.safetensors is .*the command that trained it writes it again")


def test_a_report_that_a_kill_at_the_very_end_prevented_is_written(
    teacher_file: Path, run: RunFolder
) -> None:
    run.report.unlink()
    shutil.rmtree(run.checkpoints.folder)
    assert again(teacher_file, run)[1] == [f"{run.path} is complete already"]
    assert run.report.is_file()


@pytest.mark.long
def test_a_comparison_repeats_what_lost_its_student(teacher_file: Path, tmp_path: Path) -> None:
    swept = [each for each in SETTINGS if not each.startswith("temperature=")]
    swept = tiny(teacher_file, tmp_path / "all", *swept, "temperature=constant,max_logit")
    compare(swept, console=silent())
    student = RunFolder(tmp_path / "all" / "temperature=max_logit,seed=0").student
    whole = student.read_bytes()
    student.unlink()
    compare(swept, console=silent())
    assert student.read_bytes() == whole


def test_the_configuration_is_what_the_last_process_to_train_was_given(
    teacher_file: Path, run: RunFolder
) -> None:
    before = run.config.read_text()
    again(teacher_file, run, "trainer.log_every_steps=7")
    assert run.config.read_text() == before  # complete: nothing was trained
    run.result.unlink()
    again(teacher_file, run, "trainer.log_every_steps=7")
    assert "log_every_steps: 7" in run.config.read_text()
