import pytest
import torch
from sklearn import datasets

from rlkd.data import load_digits
from rlkd.data.digits import MEAN, STD


def test_both_splits_together_are_scikit_learns_digits() -> None:
    train, test = load_digits()
    assert (len(train), len(test)) == (1437, 360)
    # 255 / 16 is above 1, so that the 17 shades stay apart and come back exactly.
    ink = (torch.cat([train.image, test.image]).flatten(1) * (16 / 255)).round().long()
    found = torch.cat([ink, torch.cat([train.target, test.target])[:, None]], dim=1).tolist()
    pixels, target = datasets.load_digits(return_X_y=True)
    expected = [[*map(int, row), int(digit)] for row, digit in zip(pixels, target, strict=True)]
    assert sorted(found) == sorted(expected)


def test_the_split_is_fixed_and_even_over_classes() -> None:
    train, test = load_digits()
    again, _ = load_digits()
    assert torch.equal(train.image, again.image)
    # A fifth of the 174 to 183 images of each digit is 34.9 to 36.7.
    assert set(test.target.bincount().tolist()) <= {34, 35, 36, 37}
    assert train.class_names == tuple("0123456789")


def test_mean_and_std_are_those_of_the_training_images() -> None:
    train, _ = load_digits()
    pixels = train.image.double() / 255
    assert pixels.mean().item() == pytest.approx(MEAN[0], abs=5e-5)
    assert pixels.std().item() == pytest.approx(STD[0], abs=5e-5)
