import pytest
from benchmarks.bandit import Outcome, in_words, run


@pytest.mark.long
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seed", range(2))
def test_additive_calibration_needs_at_most_half_of_the_batches_of_evenly_spread(seed: int) -> None:
    additive = run("independent", "additive", 0.0, seed, 160).batches
    assert additive is not None
    assert run("independent", "even", 0.0, seed, 2 * additive - 8).batches is None


@pytest.mark.long
@pytest.mark.usefixtures("unchecked")
def test_coherent_exploration_lets_additive_learn_through_noise_as_large_as_the_signal() -> None:
    assert run("coherent", "additive", 0.1, 0, 320).batches is not None


def test_a_run_that_does_not_get_there_says_so() -> None:
    outcomes = [
        Outcome("coherent", "even", 1.0, seed, 16, batches, ratio)
        for seed, batches, ratio in ((0, 8, 0.1), (1, 16, 0.1), (2, None, 0.75))
    ]
    assert in_words(outcomes) == "16 (8 to 16); 1 of 3 not within 16, error x 0.75 to 0.75"
