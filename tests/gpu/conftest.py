from collections.abc import Iterator

import pytest
from tests.gpu.places import CPU, CUDA, FAKE, Place, places


@pytest.fixture(params=[CPU, FAKE, CUDA])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The CPU, a GPU that is not there, and one that is."""
    yield from places(request.param)
