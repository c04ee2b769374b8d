"""No hostile input ends in anything but sense or one line; `benchmarks/fuzz.py` tries more."""

import pytest
from benchmarks.hostile.found import FOUND, REFUSED, SEEDS
from benchmarks.hostile.kinds import KINDS
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.hostile.conftest import Try

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("hostile")]

EXAMPLES = {"numbers": 120, "coco": 30, "images": 30, "parquet": 20, "tar": 20}
"""Inputs of a kind; of the others, whose runs train, a few."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_input_is_refused_in_a_line_or_makes_sense(tried: Try, kind: str) -> None:
    # A seed is an input: there is no smaller one to look for.
    @settings(
        derandomize=True,
        max_examples=EXAMPLES.get(kind, 15),
        deadline=None,
        database=None,
        phases=[Phase.generate],
    )
    @given(st.integers(0, 2**32 - 1))
    def holds(seed: int) -> None:
        verdict = tried(kind, seed)
        assert verdict.outcome in ("accepted", "refused"), verdict

    holds()


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_is_not_found_again(tried: Try, name: str) -> None:
    verdict = tried(name, 0)
    assert verdict.outcome in ({"refused"} if name in REFUSED else {"accepted", "refused"}), verdict


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind in SEEDS for seed in SEEDS[kind]])
def test_what_failed_in_the_long_form_fails_no_longer(tried: Try, kind: str, seed: int) -> None:
    verdict = tried(kind, seed)
    assert verdict.outcome in ("accepted", "refused"), verdict
