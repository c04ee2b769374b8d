"""Instances that have parts: the entropy of an image is the mean over its regions."""

import math

import pytest
import torch

from rlkd.exploration import Bands, EntropyRecord, Explorer, predictive_entropy

CERTAIN, HALF, NOTHING = [900.0, 0.0, 0.0], [0.0, 0.0, -900.0], [0.0, 0.0, 0.0]
"""Logits of entropy 0, ln 2 and ln 3."""


def test_the_mean_over_the_parts_by_hand() -> None:
    record = EntropyRecord(5)
    logits = torch.tensor([HALF, NOTHING, CERTAIN, HALF, NOTHING, NOTHING])
    part_of = torch.tensor([0, 0, 1, 0, 2, 1])
    record.update_by_parts(torch.tensor([4, 0, 3]), logits, part_of)
    none = math.nan
    expected = [math.log(3) / 2, none, none, math.log(3), (2 * math.log(2) + math.log(3)) / 3]
    torch.testing.assert_close(record.entropy, torch.tensor(expected), equal_nan=True)


def test_one_part_each_is_the_record_of_instances() -> None:
    parts, whole = EntropyRecord(6), EntropyRecord(6)
    logits, index = torch.randn(4, 7), torch.tensor([5, 1, 0, 3])
    parts.update_by_parts(index, logits, torch.arange(4))
    whole.update(index, logits)
    torch.testing.assert_close(parts.entropy, whole.entropy, equal_nan=True)


def test_the_order_of_the_parts_does_not_matter() -> None:
    one, other = EntropyRecord(3), EntropyRecord(3)
    logits, part_of, order = torch.randn(20, 4), torch.arange(20) % 3, torch.randperm(20)
    one.update_by_parts(torch.arange(3), logits, part_of)
    other.update_by_parts(torch.arange(3), logits[order], part_of[order])
    torch.testing.assert_close(one.entropy, other.entropy)


def test_an_instance_without_parts_keeps_its_record() -> None:
    record = EntropyRecord(4)
    record.entropy.copy_(torch.tensor([0.5, 0.6, 0.7, 0.8]))
    record.update_by_parts(torch.tensor([1, 2]), torch.tensor([HALF]), torch.tensor([1]))
    torch.testing.assert_close(record.entropy, torch.tensor([0.5, 0.6, math.log(2), 0.8]))
    nothing = torch.zeros(0, dtype=torch.long)
    record.update_by_parts(torch.tensor([0, 3]), torch.zeros(0, 3), nothing)
    torch.testing.assert_close(record.entropy, torch.tensor([0.5, 0.6, math.log(2), 0.8]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_of_other_precisions_are_recorded_in_float32(dtype: torch.dtype) -> None:
    record, logits = EntropyRecord(2), torch.randn(10, 5).to(dtype)
    part_of = torch.arange(10) % 2
    record.update_by_parts(torch.arange(2), logits, part_of)
    expected = predictive_entropy(logits.float()).view(5, 2).mean(dim=0)
    assert record.entropy.dtype == torch.float32
    torch.testing.assert_close(record.entropy, expected)


def test_recording_takes_no_part_in_the_gradient() -> None:
    record = EntropyRecord(2)
    logits = torch.randn(4, 3, requires_grad=True)
    record.update_by_parts(torch.arange(2), logits, torch.tensor([0, 0, 1, 1]))
    assert not record.entropy.requires_grad


def test_instances_are_ranked_by_the_mean_of_their_parts_and_not_by_their_number() -> None:
    explorer = Explorer(
        instances=5, num_classes=3, first_epoch=1, epochs=1, bands=Bands(selected=0.2)
    )
    # Instance 3 has two uncertain parts, instance 1 nine half as uncertain.
    logits = torch.tensor([NOTHING, NOTHING, *[HALF] * 9, CERTAIN])
    part_of = torch.tensor([0, 0, *[1] * 9, 2])
    explorer.record.update_by_parts(torch.tensor([3, 1, 0]), logits, part_of)
    explorer.start_epoch(1)
    assert explorer.selected.nonzero().flatten().tolist() == [3]
