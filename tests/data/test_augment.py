import torch
from tests.reference.crop_flip import crop_and_flip_slowly

from rlkd.data.transforms.crop_flip import Augmentation, crop_and_flip


def test_one_gather_crops_and_flips_as_a_loop_over_images_does() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (64, 3, 5, 7), dtype=torch.uint8, generator=generator)
    drawn = Augmentation.draw(64, crop_padding=2, flip=True, generator=generator)
    slow = crop_and_flip_slowly(image, drawn.offset, drawn.flip, crop_padding=2)
    assert torch.equal(crop_and_flip(image, drawn, crop_padding=2), slow)


def test_a_corner_crop_shows_the_black_padding_and_is_flipped_after_cropping() -> None:
    # Padded by 1, [[1, 2], [3, 4]] has the upper left 2 x 2 corner [[0, 0], [0, 1]].
    image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8).expand(2, 1, 2, 2)
    corner = Augmentation(offset=torch.zeros(2, 2).long(), flip=torch.tensor([False, True]))
    expected = torch.tensor([[[[0, 0], [0, 1]]], [[[0, 0], [1, 0]]]], dtype=torch.uint8)
    assert torch.equal(crop_and_flip(image, corner, crop_padding=1), expected)


def test_every_offset_is_drawn_and_half_of_the_images_are_flipped() -> None:
    drawn = Augmentation.draw(
        10_000, crop_padding=1, flip=True, generator=torch.Generator().manual_seed(0)
    )
    corners = (drawn.offset[:, 0] * 3 + drawn.offset[:, 1]).bincount(minlength=9)
    assert len(corners) == 9
    # 10,000 / 9 = 1,111 with a standard deviation of 31; 5,000 with one of 50.
    assert corners.min() > 1111 - 5 * 31
    assert corners.max() < 1111 + 5 * 31
    assert abs(int(drawn.flip.sum()) - 5000) < 5 * 50


def test_without_flip_no_image_is_mirrored() -> None:
    drawn = Augmentation.draw(
        1000, crop_padding=1, flip=False, generator=torch.Generator().manual_seed(0)
    )
    assert not drawn.flip.any()
