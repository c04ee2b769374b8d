import pytest
import torch

from rlkd.errors import UserError
from rlkd.models.cifar.wide_resnet import PreActivationBlock, WideResNet


@pytest.mark.parametrize("depth", [4, 12, 20])
def test_a_depth_that_is_not_6n_plus_4_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match=f"depth={depth}: .*6n"):
        WideResNet(depth=depth)


def test_a_block_of_equal_width_passes_its_input_on_untouched() -> None:
    block = PreActivationBlock(4, 4, stride=1)
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x)
