"""Losses that predict the teacher's map from the student's: FitNet and VID.

The functions are the formulas; the modules hold the heads, which train with the student.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd import arguments
from rlkd.checks import float32_or_better
from rlkd.errors import UserError
from rlkd.losses.attention import matched_maps
from rlkd.losses.logits import Reduction, reduced


def fitnet(
    student_feature: Float[Tensor, "batch ..."],
    teacher_feature: Float[Tensor, "batch ..."],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """Return the mean squared difference of two features of one shape.

    Args:
        student_feature: the student's, after a regressor if its shape differs.
        teacher_feature: the teacher's.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        UserError: if the shapes differ; `FitNet` regresses one to the other.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets" (ICLR 2015), section 2.2.
    """
    if student_feature.shape != teacher_feature.shape:
        raise UserError(
            f"the student's feature has shape {tuple(student_feature.shape)} and the teacher's "
            f"{tuple(teacher_feature.shape)}: fitnet needs equal ones, rlkd.losses.FitNet "
            f"regresses one to the other"
        )
    difference = float32_or_better(student_feature) - float32_or_better(teacher_feature)
    loss = difference.square().flatten(1).mean(dim=1)
    return reduced(loss, reduction)


class FitNet(nn.Module):
    """`fitnet` after a regressor that brings the student's map to the shape of the teacher's.

    The regressor is a convolution, batch norm and ReLU: 1 x 1 for maps of one size, 3 x 3 with
    stride 2 for a student map of twice the height and width, a transposed 4 x 4 with stride 2 for
    one of half. For any other ratio it is 1 x 1 and the larger map is average-pooled. The paper
    trains hints in a stage of their own; here, as in the RepDistiller repository, they are a term
    beside the others.

    Args:
        student_feature: an example of the student's map; only its shape is read.
        teacher_feature: an example of the teacher's.
        relu: whether the regressor ends in a ReLU; false suits teacher maps with negative values.

    Raises:
        UserError: if a feature is not a batch of maps.
    """

    def __init__(
        self,
        student_feature: Float[Tensor, "_ student_channels student_height student_width"],
        teacher_feature: Float[Tensor, "_ teacher_channels teacher_height teacher_width"],
        *,
        relu: bool = True,
    ) -> None:
        super().__init__()
        matched_maps(student_feature, teacher_feature)
        arguments.flag("relu", relu)
        channels = teacher_feature.shape[1]
        self.regressor = nn.Sequential(
            _resizing(student_feature.shape, teacher_feature.shape),
            nn.BatchNorm2d(channels),
            nn.ReLU() if relu else nn.Identity(),
        )

    def forward(
        self,
        student_feature: Float[Tensor, "batch student_channels student_height student_width"],
        teacher_feature: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    ) -> Float[Tensor, ""]:
        """Return the loss of the regressed map."""
        regressed = self.regressor(float32_or_better(student_feature))
        return fitnet(*matched_maps(regressed, teacher_feature))


def _resizing(student: torch.Size, teacher: torch.Size) -> nn.Conv2d | nn.ConvTranspose2d:
    size, goal = student[2:], teacher[2:]
    if size == tuple(2 * side for side in goal):
        return nn.Conv2d(student[1], teacher[1], 3, stride=2, padding=1)
    if goal == tuple(2 * side for side in size):
        return nn.ConvTranspose2d(student[1], teacher[1], 4, stride=2, padding=1)
    return nn.Conv2d(student[1], teacher[1], 1)


def vid(
    student_feature: Float[Tensor, "batch channels height width"],
    teacher_feature: Float[Tensor, "batch channels height width"],
    variance: Float[Tensor, " channels"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """Return ((t - s)^2 / variance + ln variance) / 2, averaged over all elements.

    The negative log-likelihood of the teacher's map under a Gaussian around the student's, in
    nats a element and without the constant ln(2 pi) / 2; it can be negative.

    Args:
        student_feature: the mean that the student's map predicts.
        teacher_feature: the teacher's map.
        variance: of each channel, above 0.
        reduction: `mean` over the batch, or `none` for one value a row.

    Source: Ahn et al., "Variational Information Distillation for Knowledge Transfer" (CVPR 2019),
    section 2.
    """
    student, teacher = float32_or_better(student_feature), float32_or_better(teacher_feature)
    spread = variance[:, None, None]
    loss = ((student - teacher).square() / spread + spread.log()).mean(dim=(1, 2, 3)) / 2
    return reduced(loss, reduction)


class VID(nn.Module):
    """`vid` with a regressor for the mean and a learnt variance for each of the teacher's channels.

    The regressor is three 1 x 1 convolutions without bias and ReLUs between; the larger map is
    average-pooled. The variance is softplus(raw_variance) + eps.

    Args:
        student_feature: an example of the student's map; only its shape is read.
        teacher_feature: an example of the teacher's.
        initial_variance: at the start, in squared units of the teacher's map, above eps.
        eps: the least variance, above 0.

    Raises:
        UserError: if a feature is not a batch of maps, or initial_variance is not above eps.

    Source: Ahn et al. (CVPR 2019); widths and initial variance of the RepDistiller repository.
    """

    def __init__(
        self,
        student_feature: Float[Tensor, "_ student_channels student_height student_width"],
        teacher_feature: Float[Tensor, "_ teacher_channels teacher_height teacher_width"],
        *,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        matched_maps(student_feature, teacher_feature)
        arguments.number("eps", eps, above=0)
        arguments.number("initial_variance", initial_variance, above=eps)
        channels = teacher_feature.shape[1]
        self.regressor = nn.Sequential(
            nn.Conv2d(student_feature.shape[1], channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        softplus = initial_variance - eps
        raw = softplus + math.log(-math.expm1(-softplus))
        self.raw_variance = nn.Parameter(torch.full((channels,), raw))
        self.eps = eps

    @property
    def variance(self) -> Float[Tensor, " channels"]:
        """Of each channel of the teacher's map."""
        return F.softplus(self.raw_variance) + self.eps

    def forward(
        self,
        student_feature: Float[Tensor, "batch student_channels student_height student_width"],
        teacher_feature: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    ) -> Float[Tensor, ""]:
        """Return the loss of the regressed mean and the learnt variance."""
        student, teacher = matched_maps(student_feature, teacher_feature)
        return vid(self.regressor(student), teacher, self.variance)
