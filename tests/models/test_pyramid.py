import pytest
import torch
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.models.detection.pyramid import Pyramid


class Body(nn.Module):
    """Gives maps of the shapes asked for."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.shapes = shapes

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x.new_zeros(len(x), *shape) for shape in self.shapes]


def test_a_pyramid_has_levels_of_equal_channels_at_its_bodys_strides() -> None:
    pyramid = Pyramid(Body((5, 8, 12), (7, 4, 6)), "mine", out_channels=3)
    assert pyramid.strides == (8, 16)
    assert pyramid.levels == 3
    maps = pyramid(torch.zeros(2, 3, 64, 96))
    assert {name: tuple(each.shape) for name, each in maps.items()} == {
        "0": (2, 3, 8, 12),
        "1": (2, 3, 4, 6),
        "pool": (2, 3, 2, 3),
    }


@pytest.mark.parametrize(
    "shapes",
    [
        [(16, 24, 96), (8, 12, 192)],
        [(5, 8, 12), (7, 2, 3)],
        [(7, 4, 6), (5, 8, 12)],
        [(5, 9, 13), (7, 4, 6)],
        [(96, 5), (24, 5)],
    ],
    ids=["channels last", "a stride left out", "coarsest first", "no whole stride", "tokens"],
)
def test_maps_that_make_no_pyramid_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(UserError, match="model 'mine': a pyramid needs maps of channels first"):
        Pyramid(Body(*shapes), "mine", out_channels=3)


def test_a_body_of_one_image_size_is_refused() -> None:
    with pytest.raises(UserError, match="choose one that takes images of any size"):
        Pyramid(nn.Linear(224, 2), "mine", out_channels=3)
