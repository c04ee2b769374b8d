"""Folded networks against the networks that they are made of."""

import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.models.folding import JoinedConvolution, folded

JOINED = {"resnet20": 19, "wrn_16_2": 7, "vgg8": 5, "ResNet50": 49, "MobileNetV2": 36,
          "ShuffleV1": 33, "ShuffleV2": 37}  # fmt: skip


NETWORKS = """
import copy, json, sys
import torch
from torch import nn
from torch.fx.experimental import optimization
from rlkd import models
from rlkd.models.folding import JoinedConvolution, folded
torch.manual_seed(0)
for name, wanted in json.loads(sys.argv[1]).items():
    network = models.create(name, num_classes=10).eval()
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.running_mean, std=0.1)
            nn.init.uniform_(each.running_var, 0.5, 1.5)
    for layout in (torch.contiguous_format, torch.channels_last):
        image = torch.randn(4, 3, 32, 32).to(memory_format=layout)
        before = image.clone()
        apart = optimization.fuse(copy.deepcopy(network)).to(memory_format=layout)
        together = folded(copy.deepcopy(network)).to(memory_format=layout)
        count = sum(isinstance(each, JoinedConvolution) for each in together.modules())
        assert count == wanted, (name, count)
        with torch.no_grad():
            first = together(image)
            torch.testing.assert_close(first, apart(image), rtol=1e-4, atol=1e-5)
            assert torch.equal(first, together(image)), name
            torch.testing.assert_close(first, network(image), rtol=1e-3, atol=1e-4)
        assert torch.equal(image, before), name
        differentiated = together(image)
        torch.testing.assert_close(differentiated, first, rtol=1e-3, atol=1e-4)
        assert differentiated.requires_grad
"""


@pytest.fixture
def image() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def joined(network: nn.Module) -> int:
    return sum(isinstance(each, JoinedConvolution) for each in network.modules())


def test_joining_changes_no_logit() -> None:
    # Apart from this process, whose type checks see the tracer's stand-ins for tensors.
    command = [sys.executable, "-c", NETWORKS, json.dumps(JOINED)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Made(nn.Module):
    """Two convolutions, and something around them that forbids joining, or seems to."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        channels = 1 if kind == "broadcast" else 3
        self.one = nn.Conv2d(3, 3, 3, padding=1)
        self.two = nn.Conv2d(3, 3, 3, padding=1)
        self.small = nn.Conv2d(3, channels, 1)
        self.six = nn.ReLU6()

    def forward(self, image: Tensor) -> Tensor:
        one = self.one(image)
        match self.kind:
            case "used after":
                return F.relu(self.two(image) + one) + one
            case "a view of it used after":
                half = one[:, :, :8]
                return F.relu(self.two(image) + one)[:, :, :8] + half
            case "the input is added":
                return F.relu(one + image) + image
            case "called twice":
                return F.relu(self.one(F.relu(one)))
            case "the same twice":
                return F.relu(one + one)
            case "broadcast":
                return F.relu(self.two(image) + self.small(image))
            case "two sums":
                return F.relu(self.two(F.relu(self.small(image) + one)) + self.small(image))
            case "weighted":
                return F.relu(torch.add(self.two(image), one, alpha=3))
            case "six":
                return self.six(one)
            case "in place":
                return F.relu(one, inplace=True) + one
            case "overwritten before the ReLU":
                third = F.relu(self.two(image) + one)
                return F.relu(self.small(one)) + third
            case "an input that the network overwrites":
                shortcut = self.small(image)
                image = F.relu(image * 1, inplace=True)
                return F.relu(shortcut + self.two(F.relu(self.one(image))))
            case "an image that is overwritten after":
                image = image * 1
                late = self.two(image)
                image = F.relu(image, inplace=True)
                return F.relu(late) + self.small(image)
            case "a residual read before":
                return F.relu(self.two(self.small(one)) + one)
            case "a residual that the convolution reads":
                return F.relu(self.two(one) + one)
            case "a residual read after by a convolution":
                return F.relu(self.two(image) + one) + self.small(one)
            case _:
                raise AssertionError(self.kind)


@pytest.mark.parametrize(
    ("kind", "count"),
    [("used after", 0), ("a view of it used after", 0), ("the input is added", 0),
     ("called twice", 0), ("the same twice", 0), ("broadcast", 1), ("two sums", 0),
     ("weighted", 0), ("six", 0), ("in place", 0), ("a residual read before", 1),
     ("a residual that the convolution reads", 0), ("overwritten before the ReLU", 1),
     ("an input that the network overwrites", 1), ("an image that is overwritten after", 1),
     ("a residual read after by a convolution", 0)],
)  # fmt: skip
def test_what_is_used_elsewhere_is_not_overwritten(kind: str, count: int, image: Tensor) -> None:
    torch.manual_seed(0)
    network, before = Made(kind).eval(), image.clone()
    made = folded(network)
    assert joined(made) == count
    with torch.no_grad():
        torch.testing.assert_close(made(image), network(image), rtol=0, atol=1e-6)
    assert torch.equal(image, before)


def test_mixed_layouts_and_types_are_added_as_they_are(image: Tensor) -> None:
    network = Made("a residual read before").eval()
    made = folded(network)
    (one,) = [each for each in made.modules() if isinstance(each, JoinedConvolution)]
    with torch.no_grad():
        added, last = network.one(image), image.to(memory_format=torch.channels_last)
        expected = F.relu(network.two(image) + added)
        torch.testing.assert_close(one(last, added.clone()), expected)
        torch.testing.assert_close(one(image, added.double()), expected.double())
        torch.testing.assert_close(one(image, added[:1]), F.relu(network.two(image) + added[:1]))
        twice = one.double()(image.double(), added.double())
    torch.testing.assert_close(twice, expected.double(), rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_be_traced_stays_as_it_is(image: Tensor) -> None:
    class Branching(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image if image.sum() > 0 else -image

    network = Branching().eval()
    assert folded(network) is network


@pytest.mark.parametrize("kind", ["a block twice", "two norms", "weights read too"])
def test_a_layer_that_is_used_in_two_places_is_folded_in_none(kind: str, image: Tensor) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = image.shape[1]
            self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

        def forward(self, image: Tensor) -> Tensor:
            if kind == "weights read too":
                return self.norms[0](self.convolution(image)) * self.convolution.weight.mean()
            for number in range(2):
                norm = self.norms[number if kind == "two norms" else 0]
                image = norm(self.convolution(image)).relu()
            return image

    torch.manual_seed(0)
    network = Tied().eval()
    for norm in network.norms:
        assert isinstance(norm, nn.BatchNorm2d)
        norm.running_mean = torch.randn(image.shape[1])
        norm.running_var = torch.rand(image.shape[1]) + 0.5
    with torch.no_grad():
        torch.testing.assert_close(folded(network)(image), network(image))
