import math
from typing import Any

import jaxtyping
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from rlkd.errors import UserError
from rlkd.exploration import Bands, EntropyRecord, predictive_entropy, rank

TEN = torch.tensor([0.1, 0.9, 0.3, 0.7, 0.5, 0.8, 0.2, 0.6, 0.4, 0.0])
"""Ranked: instances 1 5 3 7 4 8 2 6 0 9."""


def test_knowing_nothing_of_k_classes_has_entropy_log_k() -> None:
    found = predictive_entropy(torch.full((2, 7), 3.0))
    torch.testing.assert_close(found, torch.full((2,), math.log(7)))


def test_certainty_has_entropy_zero_and_no_nan() -> None:
    logits = torch.tensor([[1000.0, 0.0, 0.0], [0.0, -3e38, -3e38]], requires_grad=True)
    found = predictive_entropy(logits)
    assert found.tolist() == [0.0, 0.0]
    assert torch.isfinite(torch.autograd.grad(found.sum(), logits)[0]).all()


def test_an_impossible_class_contributes_nothing() -> None:
    # p = (1/2, 1/2, 0): H = ln 2, although ln 0 is minus infinity.
    found = predictive_entropy(torch.tensor([[0.0, 0.0, -500.0]]))
    torch.testing.assert_close(found.item(), math.log(2), rtol=1e-6, atol=0)


def test_entropy_by_hand() -> None:
    # p = (3/4, 1/4): H = 3/4 ln(4/3) + 1/4 ln 4.
    expected = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    found = predictive_entropy(torch.tensor([[math.log(3), 0.0]]))
    torch.testing.assert_close(found.item(), expected, rtol=1e-6, atol=0)


def test_entropy_equals_scipys() -> None:
    logits = 3 * torch.randn(20, 10)
    expected = scipy_entropy(torch.softmax(logits.double(), dim=1).numpy(), axis=1)
    torch.testing.assert_close(
        predictive_entropy(logits).double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-7
    )


def test_the_bands_of_ten_instances() -> None:
    # S_e: the top 2. Mixed: rank 2 (instance 5). Partner: rank 5 (instance 4).
    ranking = rank(TEN, Bands())
    assert ranking.selected.nonzero().flatten().tolist() == [1, 5]
    assert ranking.partner.tolist() == [-1, -1, -1, -1, -1, 4, -1, -1, -1, -1]


def test_the_bands_of_twenty_instances_pair_rank_by_rank() -> None:
    # Entropy falls with the index. S_e: 0-3. Mixed: 2, 3. Partners: ranks 40-50 %, 8 and 9.
    ranking = rank(torch.arange(20, 0, -1).float(), Bands())
    assert ranking.selected.nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert {i: p for i, p in enumerate(ranking.partner.tolist()) if p >= 0} == {2: 8, 3: 9}


def test_other_fractions_cut_other_bands() -> None:
    # Of ten: S_e the top 4 (1 5 3 7), all of them mixed with ranks 6-9 (8 2 6 0) in order.
    bands = Bands(selected=0.4, mixed=(0.0, 0.4), partners=(0.5, 0.9))
    ranking = rank(TEN, bands)
    assert ranking.selected.nonzero().flatten().tolist() == [1, 3, 5, 7]
    assert {i: p for i, p in enumerate(ranking.partner.tolist()) if p >= 0} == {
        1: 8,
        5: 2,
        3: 6,
        7: 0,
    }


def test_instances_without_an_entropy_come_last_in_an_order_of_chance() -> None:
    unknown = torch.full((100,), torch.nan)
    drawn = [rank(unknown, Bands(), seed=seed).selected for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    quarters = drawn[0].view(4, 25).sum(dim=1)
    assert int(quarters.sum()) == 20
    assert quarters.amin() > 0  # rows of one class after the other: S_e has of each
    unknown[[3, 98, 50, 60]] = torch.tensor([0.5, 0.0, 2.0, 1.0])
    wide = rank(unknown, Bands(selected=0.03, mixed=(0.0, 0.0), partners=(0.5, 0.5)))
    assert wide.selected.nonzero().flatten().tolist() == [3, 50, 60]


def test_equal_entropies_keep_the_order_of_the_data() -> None:
    ranking = rank(torch.zeros(10), Bands())
    assert ranking.selected.nonzero().flatten().tolist() == [0, 1]
    assert ranking.partner[1] == 4


@pytest.mark.parametrize("instances", [1, 2, 3, 7, 13, 99])
def test_whatever_the_size_the_mixed_are_selected_and_their_partners_are_not(
    instances: int,
) -> None:
    ranking = rank(torch.rand(instances), Bands())
    mixed = ranking.partner >= 0
    assert ranking.selected[mixed].all()
    partners = ranking.partner[mixed]
    assert not ranking.selected[partners].any()
    assert len(partners.unique()) == len(partners)


@pytest.mark.parametrize(
    ("bands", "mend"),
    [
        ({"selected": 0.0}, r"selected=.*: give a number above 0, at most 1"),
        ({"selected": 1.2}, r"selected=.*: give a number above 0, at most 1"),
        ({"mixed": (0.2, 0.1)}, "mixed must be two rising fractions"),
        ({"mixed": (-0.1, 0.1)}, "mixed must be two rising fractions"),
        ({"partners": (0.5, 0.4)}, "partners must be two rising fractions"),
        ({"partners": (0.95, 1.05)}, "partners must be two rising fractions"),
        ({"mixed": (0.15, 0.25)}, "mixed band must be part of the selected"),
        ({"partners": (0.15, 0.25)}, "partners must not overlap the selected"),
        ({"partners": (0.4, 0.6)}, "must be equally wide"),
    ],
)
def test_impossible_bands_are_refused_with_the_mend(
    bands: dict[str, float | tuple[float, float]], mend: str
) -> None:
    with pytest.raises(UserError, match=mend) as refused:
        Bands(**bands)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(refused.value)


def test_the_record_is_indexed_by_instance() -> None:
    record = EntropyRecord(5)
    record.update(torch.tensor([3, 1]), torch.tensor([[0.0, 0.0], [900.0, 0.0]]))
    expected = torch.tensor([torch.nan, 0.0, torch.nan, math.log(2), torch.nan])
    torch.testing.assert_close(record.entropy, expected, equal_nan=True)


def test_the_record_of_a_mixed_row_stays_as_it_was() -> None:
    record = EntropyRecord(3)
    uniform = torch.zeros(3, 4)
    record.update(torch.arange(3), uniform)
    certain = torch.tensor([[99.0, 0.0, 0.0, 0.0]] * 3)
    record.update(torch.tensor([2, 0, 1]), certain, keep=torch.tensor([True, False, False]))
    torch.testing.assert_close(record.entropy, torch.tensor([0.0, 0.0, math.log(4)]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_record_of_a_row_that_is_not_finite_stays_as_it_was(value: float) -> None:
    record = EntropyRecord(3)
    record.update(torch.tensor([0, 1]), torch.zeros(2, 4))
    bad = torch.tensor([[value, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0], [value, 0.0, 0.0, 0.0]])
    record.update(torch.tensor([0, 1, 2]), bad)
    torch.testing.assert_close(record.entropy[0], torch.tensor(math.log(4)))
    assert record.entropy[1] < 0.3
    assert record.entropy[2].isnan()  # none yet


def test_a_part_that_is_not_finite_is_left_out_of_the_mean() -> None:
    record = EntropyRecord(2)
    logits = torch.tensor([[0.0, 0.0], [math.nan, 0.0], [math.inf, 0.0]])
    record.update_by_parts(torch.tensor([0, 1]), logits, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(record.entropy[0], torch.tensor(math.log(2)))
    assert record.entropy[1].isnan()


def test_recording_takes_no_part_in_the_gradient() -> None:
    record = EntropyRecord(2)
    record.update(torch.arange(2), torch.randn(2, 3, requires_grad=True))
    assert not record.entropy.requires_grad


def test_the_record_is_part_of_a_checkpoint() -> None:
    record, other = EntropyRecord(4), EntropyRecord(4)
    record.update(torch.arange(4), torch.randn(4, 3))
    other.load_state_dict(record.state_dict())
    assert torch.equal(other.entropy, record.entropy)
    assert other.entropy.abs().sum() > 0


def test_entropies_are_float32_in_mixed_precision_too() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    expected = predictive_entropy(logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(predictive_entropy(logits), expected)


@pytest.mark.parametrize("band", [5, [], [0.4], [0.4, 0.5, 0.6], "ab", None])
def test_a_band_is_two_fractions(band: Any) -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(UserError, match=r"exploration\.partners is no band: give two frac"):
            Bands(partners=band)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
