"""Scikit-learn's handwritten digits: small real images that need no download."""

import torch

from rlkd.data.loaders.memory import ImageSet
from rlkd.data.splits import hold_out

MEAN = (0.3058,)
STD = (0.3759,)
TEST_SIZE = 360


def load_digits() -> tuple[ImageSet, ImageSet]:
    """Return 1,437 images to train on and 360 to test on, 8 x 8 grey pixels, always the same.

    Source: the test set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits"
    (1998), as scikit-learn packages it.
    """
    # scikit-learn takes about a second to import, which only this data set should pay.
    from sklearn import datasets

    ink, target = datasets.load_digits(return_X_y=True)  # 0 to 16
    pixels = torch.from_numpy(ink).view(-1, 1, 8, 8)
    images = ImageSet(
        image=(pixels * (255 / 16)).round().to(torch.uint8),
        target=torch.from_numpy(target).long(),
        class_names=tuple(str(digit) for digit in range(10)),
    )
    return hold_out(images, TEST_SIZE, seed=0)
