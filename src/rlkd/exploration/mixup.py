"""Mix-up of the uncertain with the less uncertain, rank by rank."""

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from rlkd.types import Batch


def mix(
    batch: Batch,
    partner: Batch,
    chosen: Bool[Tensor, " batch"],
    *,
    weight: float,
    num_classes: int,
) -> Batch:
    """Mix the chosen rows with their partners: x = weight * x_1 + (1 - weight) * x_2.

    Targets are mixed by the same weight and become distributions over classes, for every row. A
    mixed image is no view of any.

    Args:
        batch: the training instances.
        partner: as many, row by row their partners.
        chosen: the rows to mix; the others keep their image and label.
        weight: lambda, in [0, 1].
        num_classes: of the data.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018).
    """
    share = torch.where(chosen, weight, 1.0)
    image_share = share[:, None, None, None].to(batch.image)
    image = image_share * batch.image + (1 - image_share) * partner.image
    first = F.one_hot(batch.target, num_classes)
    second = F.one_hot(partner.target, num_classes)
    target = share[:, None] * first + (1 - share[:, None]) * second
    view = None if batch.view is None else torch.where(chosen, -1, batch.view)
    return Batch(image=image, target=target, index=batch.index, view=view)
