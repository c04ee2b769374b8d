import pytest
import torch

from rlkd.errors import UserError
from rlkd.models import create
from rlkd.models.cifar.resnet import ResNet


def test_other_image_sizes_channels_and_class_counts_fit() -> None:
    model = create("resnet8", num_classes=10, in_channels=1)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("depth", [2, 9, 18])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match=f"depth={depth}: .*6n"):
        ResNet(depth=depth)
