import pytest
import torch
from torch import Tensor

from rlkd.models import create


# The public implementation pools a fourth time at 64 pixels.
@pytest.mark.parametrize(("size", "last"), [(8, 1), (32, 4), (64, 4)])
def test_large_images_are_halved_once_more(size: int, last: int) -> None:
    model = create("vgg8", num_classes=3).eval()
    maps: list[Tensor] = []
    model.relu4.register_forward_hook(lambda _m, _x, out: maps.append(out))
    with torch.inference_mode():
        model(torch.rand(1, 3, size, size))
    assert maps[0].shape == (1, 512, last, last)
