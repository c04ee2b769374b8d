from typing import Any

import pytest
import torch

from rlkd.errors import UserError
from rlkd.models import create
from rlkd.models.cifar import RESNETS
from rlkd.models.cifar.resnet import ResNet


def test_the_nine_resnets_of_the_benchmarks_are_here() -> None:
    assert list(RESNETS) == [
        *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
        *("resnet8x4", "resnet32x4"),
    ]


@pytest.mark.parametrize("name", RESNETS)
def test_parameters_have_the_names_and_shapes_of_published_checkpoints(
    name: str, golden: Any
) -> None:
    model = create(name, num_classes=100)
    expected = golden.models[name]
    shapes = [(key, list(tensor.shape)) for key, tensor in model.state_dict().items()]
    assert shapes == list(expected["state_dict"].items())
    assert sum(each.numel() for each in model.parameters()) == expected["parameters"]


@pytest.mark.parametrize("name", RESNETS)
def test_logits_are_those_of_the_public_implementation(name: str, golden: Any) -> None:
    model = create(name, num_classes=100)
    golden.fill(model)
    with torch.inference_mode():
        logits = model.double().eval()(golden.image.double())
    expected = golden.logits(name)
    # The golden values carry float32's rounding, which is relative to the largest logit.
    rounding = 1e-6 * expected.abs().max().item()
    torch.testing.assert_close(logits.float(), expected, rtol=1e-4, atol=rounding)


def test_other_image_sizes_channels_and_class_counts_fit() -> None:
    model = create("resnet8", num_classes=10, in_channels=1)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("depth", [2, 9, 18])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match=f"depth={depth}: .*6n"):
        ResNet(depth=depth)
