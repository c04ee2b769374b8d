"""Logits are chosen among what a network returns, however it is called."""

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from rlkd.models import Teacher
from rlkd.models.eval_mode import at_rest, evaluating
from rlkd.models.outputs import giving_logits, without_logits


class Pair(nn.Module):
    """Can be traced; returns features and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.norm(self.conv(x)).mean((2, 3))
        return features, self.fc(features)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_folded_teacher_gives_its_logits(image: Tensor) -> None:
    plain = Pair().eval()
    teacher = Teacher(giving_logits(copy.deepcopy(plain), "pair", 3), fuse=True)
    assert isinstance(teacher.network, fx.GraphModule)
    torch.testing.assert_close(teacher(image), plain(image)[1])


@pytest.mark.filterwarnings("ignore")  # of torch's own, when dynamo is first used
def test_copies_and_compiled_networks_give_their_logits_too(image: Tensor) -> None:
    plain = Pair().eval()
    network = giving_logits(copy.deepcopy(plain), "pair", 3)
    assert network.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(copy.deepcopy(network)(image), plain(image)[1])
    network.compile(backend="eager")
    torch.testing.assert_close(network(image), plain(image)[1])


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_probabilities_are_told_from_logits(scale: float) -> None:
    logits = scale * torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    assert without_logits(logits.softmax(1)) == "probabilities"
    assert without_logits(logits.log_softmax(1)) == "log-probabilities"
    assert without_logits(logits) is None
    assert without_logits(torch.zeros(2, 5)) is None
    assert without_logits(logits.sigmoid()) is None


def test_a_quantisation_aware_network_learns_no_range_in_evaluation(image: Tensor) -> None:
    observed = torch.ao.quantization.FusedMovingAvgObsFakeQuantize()
    network = nn.Sequential(observed)
    with evaluating(network):
        network(image)  # the first range has to come from somewhere
    ranges = observed.activation_post_process
    first = float(ranges.max_val)
    with evaluating(network):
        network(9 * image)
    assert float(ranges.max_val) == first
    assert bool(observed.observer_enabled)
    at_rest(network)(9 * image)
    assert float(ranges.max_val) == first
    network.train()
    observed.enable_observer()
    network(9 * image)
    assert float(ranges.max_val) > first
