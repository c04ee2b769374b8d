"""Losses on where feature maps are active: attention transfer and neuron selectivity transfer.

The other feature losses share the small tools at the end of this file.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rlkd.checks import float32_or_better
from rlkd.errors import InputError, UserError
from rlkd.losses.logits import Reduction, reduced

NO_DIRECTION = 1e-12
"""A vector this short or shorter has no direction: it becomes 0, and so does its gradient."""


def at(
    student_feature: Float[Tensor, "batch student_channels student_height student_width"],
    teacher_feature: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    r"""Return the mean squared difference of the attention maps Q = sum_c A_c^2, each of norm 1.

    AT, attention transfer. Channels may differ; the larger map is average-pooled.

    Args:
        student_feature: the student's maps.
        teacher_feature: the teacher's maps.
        reduction: `mean` over the batch, or `none` for one value a row; a row's value is its
            mean over positions, between 0 and 2 / (height * width).

    Raises:
        UserError: if a feature is not a batch of maps.

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention" (ICLR 2017), eq. 2 with
    p = 2; the mean over positions is that of the RepDistiller repository.
    """
    student, teacher = matched_maps(student_feature, teacher_feature)
    loss = (attention_map(student) - attention_map(teacher)).square().mean(dim=1)
    return reduced(loss, reduction)


def nst(
    student_feature: Float[Tensor, "batch student_channels student_height student_width"],
    teacher_feature: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    r"""Return the squared maximum mean discrepancy of the two sets of channels.

    NST, neuron selectivity transfer. A channel is a sample: its map as a vector of norm 1. With
    the kernel k(x, y) = (x . y)^2, an instance's loss is
    mean k(s, s') + mean k(t, t') - 2 mean k(s, t), from 0 to 2. Channels may differ; the larger
    map is average-pooled.

    Args:
        student_feature: the student's maps.
        teacher_feature: the teacher's maps.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        UserError: if a feature is not a batch of maps.

    Source: Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity
    Transfer" (2017), the polynomial kernel with d = 2 and c = 0.
    """
    maps = matched_maps(student_feature, teacher_feature)
    student, teacher = (directions(each.flatten(2)) for each in maps)
    loss = (
        _mean_kernel(student, student)
        + _mean_kernel(teacher, teacher)
        - 2 * _mean_kernel(student, teacher)
    )
    return reduced(loss, reduction)


def _mean_kernel(
    ones: Float[Tensor, "batch ones positions"], others: Float[Tensor, "batch others positions"]
) -> Float[Tensor, " batch"]:
    return torch.bmm(ones, others.transpose(1, 2)).square().mean(dim=(1, 2))


def attention_map(
    feature: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch positions"]:
    """Return the squares averaged over channels, flattened and scaled to norm 1."""
    return directions(feature.square().mean(dim=1).flatten(1))


def matched_maps(
    student_feature: Float[Tensor, "batch student_channels student_height student_width"],
    teacher_feature: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
) -> tuple[
    Float[Tensor, "batch student_channels height width"],
    Float[Tensor, "batch teacher_channels height width"],
]:
    """Average-pool the larger pair of maps to the size of the smaller, in float32 or better.

    Args:
        student_feature: the student's maps.
        teacher_feature: the teacher's maps.

    Raises:
        UserError: if a feature is not a batch of maps, or they are of different batches.
    """
    check_rows(student_feature, teacher_feature)
    for whose, feature in (("student", student_feature), ("teacher", teacher_feature)):
        if feature.dim() != 4:
            raise UserError(
                f"the {whose}'s feature has shape {tuple(feature.shape)}, not (batch, channels, "
                f"height, width): choose a layer that gives maps"
            )
    height = min(student_feature.shape[2], teacher_feature.shape[2])
    width = min(student_feature.shape[3], teacher_feature.shape[3])
    student, teacher = (_pooled(each, height, width) for each in (student_feature, teacher_feature))
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(dtype), teacher.to(dtype)


def check_rows(student: Tensor, teacher: Tensor) -> None:
    """Refuse features of different batches.

    Raises:
        InputError: if one has more rows.
    """
    if len(student) != len(teacher):
        raise InputError(
            f"the student's features are of {len(student)} instances and the teacher's of "
            f"{len(teacher)}: give both networks' features of the same batch"
        )


def _pooled(
    feature: Float[Tensor, "batch channels full_height full_width"], height: int, width: int
) -> Float[Tensor, "batch channels height width"]:
    feature = float32_or_better(feature)
    if feature.shape[2:] == (height, width):
        return feature
    return F.adaptive_avg_pool2d(feature, (height, width))


def directions(
    vectors: Float[Tensor, "*sets length"], *, eps: float = 0.0
) -> Float[Tensor, "*sets length"]:
    """Divide each vector by its norm + eps; one without a direction stays 0.

    Dividing 0 by a tiny floor instead, the usual guard, would make gradients of 1e12.
    """
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / (norm + eps).masked_fill(norm <= NO_DIRECTION, torch.inf)
