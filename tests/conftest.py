"""What all tests share: real data, where this machine has them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

RealData = Callable[[str], Path]


def find_real_data(name: str) -> Path:
    """Return a data set of the folder that RLKD_DATA names; skip the test where it is absent."""
    folder = os.environ.get("RLKD_DATA")
    if not folder:
        pytest.skip("RLKD_DATA is not set: it names a folder of real data sets")
    found = Path(folder) / name
    if not found.exists():
        pytest.skip(f"RLKD_DATA={folder} has no {name}")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what reads real data."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def real_data() -> RealData:
    """Find a real data set by its name, see `find_real_data`."""
    return find_real_data
