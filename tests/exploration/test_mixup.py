import pytest
import torch

from rlkd.exploration import mix
from rlkd.types import Batch


def images(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None].expand(len(values), 1, 2, 2).clone()


FIRST = Batch(images(10.0, 20.0), torch.tensor([0, 1]), torch.tensor([7, 8]))
PARTNER = Batch(images(100.0, 200.0), torch.tensor([2, 1]), torch.tensor([3, 4]))
BOTH = torch.tensor([True, True])


@pytest.mark.parametrize(
    ("weight", "image", "target"),
    [
        (1.0, (10.0, 20.0), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        (0.0, (100.0, 200.0), [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
        # 0.7 * 10 + 0.3 * 100 = 37; 0.7 * 20 + 0.3 * 200 = 74; equal labels stay one label
        (0.7, (37.0, 74.0), [[0.7, 0.0, 0.3], [0.0, 1.0, 0.0]]),
    ],
)
def test_image_and_target_are_mixed_by_the_same_weight(
    weight: float, image: tuple[float, float], target: list[list[float]]
) -> None:
    mixed = mix(FIRST, PARTNER, BOTH, weight=weight, num_classes=3)
    torch.testing.assert_close(mixed.image, images(*image))
    torch.testing.assert_close(mixed.target, torch.tensor(target))


def test_rows_not_chosen_keep_image_and_label_exactly() -> None:
    mixed = mix(FIRST, PARTNER, torch.tensor([False, True]), weight=0.7, num_classes=3)
    assert torch.equal(mixed.image[0], FIRST.image[0])
    assert mixed.target[0].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(mixed.image[1], images(74.0)[0])


def test_a_mixed_row_keeps_its_own_index() -> None:
    mixed = mix(FIRST, PARTNER, BOTH, weight=0.7, num_classes=3)
    assert mixed.index.tolist() == [7, 8]


def test_mixed_targets_are_distributions() -> None:
    mixed = mix(FIRST, PARTNER, BOTH, weight=0.31, num_classes=5)
    torch.testing.assert_close(mixed.target.sum(dim=1), torch.ones(2))


def test_mixing_leaves_its_inputs_alone() -> None:
    mix(FIRST, PARTNER, BOTH, weight=0.5, num_classes=3)
    assert torch.equal(FIRST.image, images(10.0, 20.0))
    assert torch.equal(PARTNER.image, images(100.0, 200.0))


def test_half_precision_images_stay_half_precision() -> None:
    half = Batch(FIRST.image.bfloat16(), FIRST.target, FIRST.index)
    other = Batch(PARTNER.image.bfloat16(), PARTNER.target, PARTNER.index)
    assert mix(half, other, BOTH, weight=0.5, num_classes=3).image.dtype is torch.bfloat16
