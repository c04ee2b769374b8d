from collections.abc import Iterator

import pytest
from tests.gpu.places import CPU, CUDA, FAKE, Place, places
from tests.training.runs import as_users_call


@pytest.fixture(params=[CPU, FAKE, CUDA])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The CPU, a GPU that is not there, and one that is."""
    yield from places(request.param)


@pytest.fixture
def plainly() -> Iterator[None]:
    """Run as users run: see `as_users_call`."""
    with as_users_call():
        yield
