from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.training.refusal import Refuse
from tests.training.runs import as_users_call, fingerprint, write_teacher

from rlkd.cli import main


@pytest.fixture
def plainly() -> Iterator[None]:
    """Run as users run: see `as_users_call`."""
    with as_users_call():
        yield


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "teacher.pth")


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refuse:
    """Run a command that must fail; return its one line, having seen that nothing was touched."""

    def refuse(*arguments: str) -> str:
        before = fingerprint(tmp_path)
        code = main(arguments)
        told = capsys.readouterr().err
        assert code == 2, told
        assert len(told.splitlines()) == 1, told
        assert told.startswith("rlkd: ")
        assert fingerprint(tmp_path) == before
        return told.strip()

    return refuse
