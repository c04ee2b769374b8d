"""Which cases of a test are left to the long ones."""

from collections.abc import Iterable
from typing import Any

import pytest


def but_long(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """The cases, all long but those that are kept; each of these must be one."""
    cases = list(cases)
    assert {*kept} <= {*cases}
    return [each if each in kept else pytest.param(each, marks=pytest.mark.long) for each in cases]
