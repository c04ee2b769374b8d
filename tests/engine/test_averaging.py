"""The moving average of a network's weights: what of it is averaged, and what is copied."""

import math

import pytest
import torch
from torch import Tensor, nn

from rlkd.engine.averaging import MovingAverage
from rlkd.errors import UserError


class Masked(nn.Module):
    """Has one buffer of each kind: a statistic, a stored mask, and a mask that is not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        mask = torch.full((2, 2), -math.inf).triu(1)
        self.register_buffer("statistic", torch.zeros(1))
        self.register_buffer("mask", mask)
        self.register_buffer("unstored", mask.clone(), persistent=False)

    statistic: Tensor
    mask: Tensor
    unstored: Tensor


def test_masks_stay_what_they_are_and_statistics_are_averaged() -> None:
    network = Masked()
    average = MovingAverage(network, 0.75)
    average.update(network, first=True)
    network.statistic.fill_(4.0)
    average.update(network, first=False)
    held = average.network
    assert isinstance(held, Masked)
    assert held.statistic.item() == 1.0  # 0.75 x 0 + 0.25 x 4
    assert torch.equal(held.mask, network.mask)
    assert torch.equal(held.unstored, network.unstored)


def test_buffers_that_get_their_shape_at_the_first_call_are_followed() -> None:
    network = torch.ao.quantization.PerChannelMinMaxObserver()
    average = MovingAverage(network, 0.5)
    network(torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.0, 1.0]]))
    average.reshape(network)
    average.update(network, first=True)
    held = dict(average.network.named_buffers())
    assert held["max_val"].tolist() == [2.0, 5.0, 1.0]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_that_cannot_be_copied_is_refused() -> None:
    layer = torch.nn.utils.weight_norm(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"trainer.ema copies the student, and Linear cannot be"):
        MovingAverage(layer, 0.5)
