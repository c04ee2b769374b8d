from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.gpu.places import CPU, CUDA, FAKE, Place, places
from tests.support.runs import as_users_call, write_teacher


@pytest.fixture(params=[CPU, FAKE, CUDA])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The CPU, a GPU that is not there, and one that is."""
    yield from places(request.param)


@pytest.fixture
def plainly() -> Iterator[None]:
    """Run as users run: see `as_users_call`."""
    with as_users_call():
        yield


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "teacher.pth")
