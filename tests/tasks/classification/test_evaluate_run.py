"""`rlkd evaluate run=DIR`: the student of a run, as the run itself scored it."""

from pathlib import Path

import pytest
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import silent, tiny

from rlkd.engine.run import distill, score_checkpoints
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import Result

pytestmark = pytest.mark.usefixtures("plainly")


def test_a_runs_student_scores_as_the_run_says(teacher_file: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    distill(tiny(teacher_file, folder.path, "temperature=constant"), console=silent())
    scored = score_checkpoints([f"run={folder.path}"], console=silent())
    assert scored == {"student": Result.read(folder.result).test}


def test_what_is_no_run_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert_told(refuse("evaluate", f"run={tmp_path}"), "no config.yaml: give run=FOLDER of a run")
    assert_told(refuse("evaluate", "run="), "run is missing: give run=...")
