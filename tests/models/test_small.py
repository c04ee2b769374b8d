import pytest
import torch
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.models import create
from rlkd.models.features import Taps
from rlkd.models.small import SmallConvNet


def _sizes(model: SmallConvNet, image: Tensor) -> list[tuple[int, ...]]:
    """Return the height and width after each layer."""
    sizes: list[tuple[int, ...]] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _m, _x, out: sizes.append(tuple(out.shape[-2:])))
    model(image)
    return sizes


def test_pooling_halves_between_layers_and_stops_at_two_pixels() -> None:
    model = SmallConvNet(channels=(4, 4, 4, 4), num_classes=10, in_channels=1)
    assert _sizes(model, torch.rand(2, 1, 8, 8)) == [(8, 8), (4, 4), (2, 2), (2, 2)]


def test_the_shorter_side_stops_the_pooling() -> None:
    model = SmallConvNet(channels=(4, 4, 4), num_classes=10, in_channels=1)
    assert _sizes(model, torch.rand(2, 1, 5, 16)) == [(5, 16), (2, 8), (2, 8)]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # 9*1*4 + 2*4 + 9*4*8 + 2*8 + 8*10 + 10
        ("convnet_tiny", 438),
        # 9*1*32 + 2*32 + 9*32*64 + 2*64 + 9*64*64 + 2*64 + 64*10 + 10
        ("convnet_small", 56554),
    ],
)
def test_named_variants_have_the_parameters_of_hand_arithmetic(name: str, parameters: int) -> None:
    model = create(name, num_classes=10, in_channels=1)
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_logits_are_the_classifier_of_the_mean_feature() -> None:
    model = SmallConvNet(channels=(3,), num_classes=2, in_channels=1).eval()
    image = torch.rand(2, 1, 4, 4)
    feature = nn.functional.relu(model.layers[0][1](model.layers[0][0](image)))
    expected = model.fc(feature.sum(dim=(2, 3)) / 16)
    torch.testing.assert_close(model(image), expected, rtol=1e-5, atol=1e-7)


def test_taps_name_every_layer_as_a_stage_and_the_embedding() -> None:
    model = SmallConvNet(channels=(4, 6, 8), num_classes=10, in_channels=1)
    _, features = Taps(model, model.taps.values())(torch.rand(2, 1, 8, 8))
    shapes = {name: tuple(features[path].shape) for name, path in model.taps.items()}
    assert shapes == {
        "stage1": (2, 4, 8, 8),
        "stage2": (2, 6, 4, 4),
        "stage3": (2, 8, 2, 2),
        "embedding": (2, 8),
    }


def test_a_stack_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="one layer or more"):
        SmallConvNet(channels=(), num_classes=10, in_channels=1)
