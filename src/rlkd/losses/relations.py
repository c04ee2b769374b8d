"""Losses on how the instances of a batch relate: SP, CC, RKD and PKT.

An instance has no value of its own here, so each loss is one number for the batch. Student and
teacher may have features of different sizes, except for the plain function `cc`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd import arguments
from rlkd.checks import float32_or_better
from rlkd.errors import UserError
from rlkd.losses.attention import NO_DIRECTION, check_rows, directions

PKT_EPS = 1e-7


def sp(
    student_feature: Float[Tensor, "batch ..."],
    teacher_feature: Float[Tensor, "batch ..."],
) -> Float[Tensor, ""]:
    """Return `|G_s - G_t|^2 / batch^2`, G the similarities x_i . x_j with rows scaled to norm 1.

    SP, similarity-preserving distillation. From 0 to 4 / batch.

    Args:
        student_feature: the student's maps, or any feature with a row for each instance.
        teacher_feature: the teacher's, of any other shape.

    Raises:
        InputError: for features of different batches.

    Source: Tung and Mori, "Similarity-Preserving Knowledge Distillation" (ICCV 2019), section 3.
    """
    check_rows(student_feature, teacher_feature)
    student, teacher = _similarities(student_feature), _similarities(teacher_feature)
    return (student - teacher).square().mean()


def _similarities(feature: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch batch"]:
    rows = float32_or_better(feature).flatten(1)
    return directions(rows @ rows.T)


def cc(
    student_embedding: Float[Tensor, "batch student_dim"],
    teacher_embedding: Float[Tensor, "batch teacher_dim"],
) -> Float[Tensor, ""]:
    """Return the mean of d_i . d_(i+1) over neighbouring rows, `d = |student - teacher|`.

    CC, correlation congruence. Rows are compared with the next one, so any batch of two or more
    will do, odd or even; a single row has no neighbour and costs 0. The value depends on the
    order of the batch, which training shuffles.

    Args:
        student_embedding: the student's, as wide as the teacher's.
        teacher_embedding: the teacher's.

    Raises:
        UserError: if the widths differ; `CC` brings both to one width.

    Source: the form of the RepDistiller repository, which it has from the authors of Peng et
    al., "Correlation Congruence for Knowledge Distillation" (ICCV 2019). The paper itself
    compares the two networks' correlation matrices.
    """
    if student_embedding.shape != teacher_embedding.shape:
        raise UserError(
            f"the student's embedding has shape {tuple(student_embedding.shape)} and the "
            f"teacher's {tuple(teacher_embedding.shape)}: cc needs equal ones, rlkd.losses.CC "
            f"projects both to one width"
        )
    difference = float32_or_better(student_embedding) - float32_or_better(teacher_embedding)
    distance = difference.abs()
    pairs = max(len(distance) - 1, 1)
    return (distance[:-1] * distance[1:]).sum() / pairs


class CC(nn.Module):
    """`cc` after a linear projection of each network's embedding to one width.

    Both projections are trained, as in the RepDistiller repository. The loss alone would be least
    where both are 0; at the published weight, 0.02, weight decay and the other terms decide more.

    Args:
        student_embedding: an example of the student's; only its shape is read.
        teacher_embedding: an example of the teacher's.
        dim: the common width, at least 1.

    Raises:
        UserError: for a width out of range.
    """

    def __init__(
        self,
        student_embedding: Float[Tensor, "_ student_dim"],
        teacher_embedding: Float[Tensor, "_ teacher_dim"],
        *,
        dim: int = 128,
    ) -> None:
        super().__init__()
        arguments.count("dim", dim, most=arguments.WIDEST)
        self.student_projection = nn.Linear(student_embedding.shape[1], dim)
        self.teacher_projection = nn.Linear(teacher_embedding.shape[1], dim)

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> Float[Tensor, ""]:
        """Return the loss of the projected embeddings."""
        return cc(
            self.student_projection(float32_or_better(student_embedding)),
            self.teacher_projection(float32_or_better(teacher_embedding)),
        )


def rkd(
    student_embedding: Float[Tensor, "batch student_dim"],
    teacher_embedding: Float[Tensor, "batch teacher_dim"],
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Float[Tensor, ""]:
    """Return how far the batch's distances and angles differ between the networks.

    RKD, relational distillation: the Huber loss (delta 1) of the distances between all pairs,
    each network's divided by their mean, plus that of the cosines at all corners of all
    triangles. Memory grows with batch^3. Equal rows have distance 0, no angle and no gradient.

    Args:
        student_embedding: the student's.
        teacher_embedding: the teacher's, of any width.
        distance_weight: multiplies the part with distances, 0 or more.
        angle_weight: multiplies the part with angles, 0 or more.

    Raises:
        UserError: for a weight out of range, or features of different batches.

    Source: Park et al., "Relational Knowledge Distillation" (CVPR 2019), section 3.2.
    """
    arguments.number("distance_weight", distance_weight, least=0)
    arguments.number("angle_weight", angle_weight, least=0)
    check_rows(student_embedding, teacher_embedding)
    student_distances, student_cosines = _geometry(student_embedding)
    teacher_distances, teacher_cosines = _geometry(teacher_embedding)
    distance = F.smooth_l1_loss(student_distances, teacher_distances)
    angle = F.smooth_l1_loss(student_cosines, teacher_cosines)
    return distance_weight * distance + angle_weight * angle


def _geometry(
    embedding: Float[Tensor, "batch dim"],
) -> tuple[Float[Tensor, "batch batch"], Float[Tensor, "batch batch batch"]]:
    """Return the distances over their mean, and [i, j, k]: the cosine at i between j and k."""
    rows = float32_or_better(embedding)
    differences = rows[None] - rows[:, None]
    distances = torch.linalg.vector_norm(differences, dim=2)
    pairs = max(len(rows) * (len(rows) - 1), 1)
    mean = (distances.sum() / pairs).clamp(min=NO_DIRECTION)
    sides = directions(differences)
    return distances / mean, torch.bmm(sides, sides.transpose(1, 2))


def pkt(
    student_embedding: Float[Tensor, "batch student_dim"],
    teacher_embedding: Float[Tensor, "batch teacher_dim"],
) -> Float[Tensor, ""]:
    """Return `KL(P_t || P_s) / batch^2`, P[i, j] how likely instance i picks j as its neighbour.

    PKT, probabilistic knowledge transfer. P is proportional to (1 + cosine) / 2 and a row sums
    to 1. The mean over all pairs makes it small: the published weight is 30000.

    Args:
        student_embedding: the student's.
        teacher_embedding: the teacher's, of any width.

    Raises:
        InputError: for features of different batches.

    Source: Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge
    Transfer" (ECCV 2018), section 3, the cosine kernel; eps 1e-7 as in its authors' code.
    """
    check_rows(student_embedding, teacher_embedding)
    student, teacher = _neighbours(student_embedding), _neighbours(teacher_embedding)
    return (teacher * torch.log((teacher + PKT_EPS) / (student + PKT_EPS))).mean()


def _neighbours(embedding: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    rows = directions(float32_or_better(embedding), eps=PKT_EPS)
    # Rounding can push the cosine of opposite rows below -1, and the logarithm to NaN.
    similarity = ((rows @ rows.T + 1) / 2).clamp(min=0)
    return similarity / similarity.sum(dim=1, keepdim=True)
