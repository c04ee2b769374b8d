from fnmatch import fnmatch

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from rlkd import models
from rlkd.errors import UserError
from rlkd.models import freeze


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    made = models.create("resnet8", num_classes=10)
    for each in made.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.running_mean)
            nn.init.uniform_(each.running_var, 0.5, 2)
    return made.train()


@pytest.mark.parametrize("patterns", [["layer1.*"], ["*.weight"], ["conv1.*", "bn1.*"], []])
def test_the_parameters_that_match_are_frozen_and_no_others(
    patterns: list[str], network: nn.Module
) -> None:
    freeze(network, patterns)
    for name, each in network.named_parameters():
        assert each.requires_grad is not any(fnmatch(name, pattern) for pattern in patterns)


def test_a_frozen_batch_norm_is_torchvisions(network: nn.Module) -> None:
    image, held = torch.randn(4, 3, 32, 32), network.state_dict()
    freeze(network, ["bn1.*", "conv1.*"])
    other = models.create("resnet8", num_classes=10).train()
    norm: nn.Module = other.get_submodule("bn1")
    other.bn1 = FrozenBatchNorm2d(norm.num_features)
    other.load_state_dict({name: each.clone() for name, each in held.items()})
    before = {name: each.clone() for name, each in network.named_buffers()}
    torch.testing.assert_close(network(image), other(image))
    after = dict(network.named_buffers())
    changed = {name for name, each in before.items() if not torch.equal(each, after[name])}
    assert changed == {name for name in before if not name.startswith("bn1.")}


def test_a_batch_norm_of_which_one_half_trains_follows_its_batches(network: nn.Module) -> None:
    freeze(network, ["bn1.weight"])
    assert network.get_submodule("bn1").training


def test_what_matches_nothing_or_leaves_nothing_is_refused(network: nn.Module) -> None:
    with pytest.raises(UserError, match=r"layr1\.\* matches no parameter of \w+: .*layer1\.\*"):
        freeze(network, ["layr1.*"])
    with pytest.raises(UserError, match="leaves no parameter to train"):
        freeze(network, ["*.weight", "*.bias"])
