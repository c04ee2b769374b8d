"""Several teachers as one."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd.models.teacher import Teacher


class MeanLogits(nn.Module):
    """The weighted mean of several teachers' logits.

    Of logits, not of probabilities: it is softened by any temperature as one teacher's are, and its
    softmax is the normalised geometric mean of theirs.

    Args:
        teachers: of the same classes in the same order; each sees images in its own normalisation,
            size and precision.
        weights: one for each, above 0; only their ratios matter.

    Source: You et al., "Learning from Multiple Teacher Networks" (KDD 2017), who average softened
    probabilities.
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        shares = torch.tensor(weights) / sum(weights)
        self.shares = nn.Parameter(shares, requires_grad=False)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the mean logits, in float32 or better."""
        logits = torch.stack([each(image) for each in self.teachers])
        return (self.shares.to(logits)[:, None, None] * logits).sum(0)  # autocast rounds products


def mean_of(teachers: Sequence[Teacher], weights: Sequence[float]) -> Teacher:
    """Return one teacher whose logits are the weighted mean of several; see `MeanLogits`."""
    digest = hashlib.sha256()
    for teacher, weight in zip(teachers, weights, strict=True):
        seen = [None if each is None else each.tolist() for each in (teacher.scale, teacher.shift)]
        digest.update(f"{teacher.sha256} {weight} {seen} {teacher.image_size}\n".encode())
    return Teacher(MeanLogits(teachers, weights), sha256=digest.hexdigest())
