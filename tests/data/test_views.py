"""Crops and sizes, held against torchvision's transforms of Pillow's images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, RandomResizedCrop, Resize
from torchvision.transforms.functional import pil_to_tensor, resized_crop

from rlkd.data.seeding import generator_of
from rlkd.data.transforms.resized_crop import Crop, Views, shortened


def picture(width: int, height: int) -> Image.Image:
    """A smooth gradient with some noise, as photographs have."""
    noise = np.random.default_rng(0).normal(0, 20, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], axis=2)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def levels_apart(one: torch.Tensor, other: torch.Tensor) -> tuple[int, float]:
    apart = (one.int() - other.int()).abs()
    return int(apart.max()), float(apart.float().mean())


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (224, 300), (300, 224), (256, 256), (960, 60)]
)
def test_evaluation_is_torchvisions_resize_and_centre_crop(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = pil_to_tensor(Compose([Resize(256), CenterCrop(224)])(image))
    found = Views().evaluated(pil_to_tensor(image))
    # Both round what they resize, Pillow after each direction: they are a level apart at most.
    most, mean = levels_apart(found, expected)
    assert most <= 1
    assert mean < 0.1


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_is_resized_as_torchvision_resizes_it(mirrored: bool) -> None:
    image = picture(400, 300)
    crop = Crop(top=20, left=33, height=210, width=280, mirrored=mirrored)
    expected = pil_to_tensor(resized_crop(image, 20, 33, 210, 280, [64, 64]))
    found = Views(size=(64, 64), resize=64).cut(pil_to_tensor(image), crop)
    most, mean = levels_apart(found, expected.flip(2) if mirrored else expected)
    assert most <= 1
    assert mean < 0.1


@pytest.mark.parametrize("size", [(500, 375), (40, 200), (600, 100)])
def test_crops_are_drawn_as_torchvision_draws_them(size: tuple[int, int]) -> None:
    width, height = size
    image, draws = Image.new("L", size), 3000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.tensor(
            [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(draws)]
        ).double()
    crops = [Views().draw(height, width, generator_of(0, row)) for row in range(draws)]
    found = torch.tensor([[c.top, c.left, c.height, c.width] for c in crops]).double()
    shares = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    for column, side in zip(range(4), (height, width, height, width), strict=True):
        ours, theirs = (each[:, column].quantile(shares) for each in (found, expected))
        # Quantiles of 3,000 draws have a standard error below 1 % of the range.
        assert (ours - theirs).abs().max() <= 0.04 * side
    mirrored = sum(crop.mirrored for crop in crops) / draws
    assert 0.46 < mirrored < 0.54
    assert not any(Views(flip=False).draw(9, 9, generator_of(0, k)).mirrored for k in range(99))
    inside = (found[:, 0] + found[:, 2] <= height) & (found[:, 1] + found[:, 3] <= width)
    assert bool((inside & (found[:, 2:] > 0).all(dim=1)).all())


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1), (1, 50)])
def test_images_of_any_shape_have_both_views(width: int, height: int) -> None:
    image = pil_to_tensor(picture(width, height))
    views = Views(size=(16, 16), resize=20)
    for row in range(20):
        crop = views.draw(height, width, generator_of(row))
        assert views.cut(image, crop).shape == (3, 16, 16)
    assert views.evaluated(image).shape == (3, 16, 16)


def test_of_an_image_far_longer_than_wide_only_the_middle_is_resized() -> None:
    # Resized whole, to a shorter side of 256, it would take 12.9 GB.
    image = torch.arange(65500).remainder(251).to(torch.uint8).expand(3, 1, 65500)
    assert torch.equal(shortened(image), image[:, :, 32742:32758])
    assert torch.equal(shortened(image.mT), shortened(image).mT)
    assert Views().evaluated(image).shape == (3, 224, 224)
