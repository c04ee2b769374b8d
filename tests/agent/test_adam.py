"""The agent's optimiser against torch's."""

import copy
import io

import pytest
import torch
from torch import nn

from rlkd.agent.adam import Adam


def descend(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        net(inputs).square().mean().backward()
        optimizer.step()


def groups(net: nn.Sequential) -> list[dict[str, object]]:
    """Two learning rates, and a weight that never gets a gradient."""
    unused = nn.Parameter(torch.ones(2))
    return [
        {"params": [*net[0].parameters(), unused], "lr": 0.03},
        {"params": list(net[2].parameters()), "lr": 0.001},
    ]


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def test_it_descends_as_torchs_does_to_the_bit(net: nn.Sequential) -> None:
    twin = copy.deepcopy(net)
    descend(net, Adam(groups(net)), range(5))
    descend(twin, torch.optim.Adam(groups(twin), fused=True), range(5))
    assert all(map(torch.equal, net.parameters(), twin.parameters()))


def test_a_resumed_descent_equals_the_uninterrupted_one(net: nn.Sequential) -> None:
    begun = copy.deepcopy(net)
    descend(net, Adam(groups(net)), range(6))
    first, file = Adam(groups(begun)), io.BytesIO()
    descend(begun, first, range(3))
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = Adam(groups(begun))
    second.load_state_dict(torch.load(file, weights_only=True))
    descend(begun, second, range(3, 6))
    assert all(map(torch.equal, net.parameters(), begun.parameters()))
