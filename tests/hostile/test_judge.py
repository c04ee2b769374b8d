"""The judge of hostile inputs sees what it is to see."""

import pytest
from tests.hostile.awful import ACTS
from tests.hostile.conftest import Try

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("hostile")]


@pytest.mark.parametrize("name", ACTS)
def test_the_judge_sees_what_an_input_does(tried: Try, name: str) -> None:
    verdict = tried(name, 0)
    assert verdict.failure == ACTS[name][0], verdict


def test_an_input_is_drawn_from_its_kind_and_seed_alone(tried: Try) -> None:
    first, other, again = (tried("says ok", seed).words for seed in (1, 2, 1))
    assert first == again != other
