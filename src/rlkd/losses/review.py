"""Knowledge review: a stage of the teacher is learnt by the student's stage and all deeper ones."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd import arguments
from rlkd.errors import UserError

FeatureMap = Float[Tensor, "batch _ _ _"]


class ReviewKD(nn.Module):
    """Fuses the student's stages from deep to shallow, and compares each with the teacher's.

    The deepest level is the embedding, as a map of one place. At every level a `Fusion` adds what
    the deeper levels have gathered; what it puts out is compared with the teacher's map by `hcl`,
    and the levels are summed.

    Args:
        student_features: examples of the student's maps, shallow to deep.
        teacher_features: the same of the teacher, as many.
        student_embedding: an example of what goes into the student's classifier.
        teacher_embedding: the same of the teacher.
        max_channels: bounds the channels of what is gathered, which are the student embedding's.

    Raises:
        UserError: if the networks differ in the number of maps, or `max_channels` is below 1.

    Source: Chen et al., "Distilling Knowledge via Knowledge Review" (CVPR 2021), section 3. The
    published code takes the teacher's maps before the last ReLU of a stage, the student's after.
    """

    def __init__(
        self,
        student_features: Sequence[FeatureMap],
        teacher_features: Sequence[FeatureMap],
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
        *,
        max_channels: int = 512,
    ) -> None:
        super().__init__()
        arguments.count("max_channels", max_channels, most=arguments.WIDEST)
        if len(student_features) != len(teacher_features):
            raise UserError(
                f"{len(student_features)} maps of the student and {len(teacher_features)} of the "
                "teacher do not pair: give layers as many places in either network"
            )
        student = [each.shape[1] for each in (*student_features, student_embedding)]
        teacher = [each.shape[1] for each in (*teacher_features, teacher_embedding)]
        gathered = min(max_channels, student[-1])
        deeper = [gathered] * len(student_features) + [0]
        self.fusions = nn.ModuleList(
            Fusion(channels, gathered, out, deeper_channels=below)
            for channels, out, below in zip(student, teacher, deeper, strict=True)
        )

    def forward(
        self,
        student_features: Sequence[FeatureMap],
        teacher_features: Sequence[FeatureMap],
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
    ) -> Float[Tensor, ""]:
        """Return the sum of the levels' losses.

        Args:
            student_features: the student's maps, shallow to deep.
            teacher_features: the teacher's.
            student_embedding: what goes into the student's classifier.
            teacher_embedding: what goes into the teacher's.

        Raises:
            UserError: in training for a single instance, which has no spread to normalise by.
        """
        if self.training and len(student_embedding) < 2:
            raise UserError(
                "ReviewKD normalises embeddings over a batch, and a share of one image has no "
                "spread: give trainer.batch_size at least 2 images for each rank and pass"
            )
        student = [*student_features, student_embedding[:, :, None, None]]
        teacher = [*teacher_features, teacher_embedding[:, :, None, None]]
        losses: list[Tensor] = []
        gathered: Tensor | None = None
        for fusion, student_map, teacher_map in zip(
            reversed(self.fusions), reversed(student), reversed(teacher), strict=True
        ):
            fused, gathered = fusion(student_map, gathered, teacher_map.shape[2:])
            losses.append(hcl(fused, teacher_map.detach()))
        return torch.stack(losses).sum()


class Fusion(nn.Module):
    """Attention-based fusion of a stage with what the deeper stages have gathered.

    A 1 x 1 convolution brings the stage to the gathered channels; two attention maps, learnt from
    both, weigh the two; a 3 x 3 convolution turns the sum into the teacher's channels.

    Args:
        channels: of the stage.
        gathered: channels of what is passed on.
        out: channels of the teacher's map.
        deeper_channels: of what comes from below; 0 where nothing does.
    """

    def __init__(self, channels: int, gathered: int, out: int, *, deeper_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, gathered, 1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(gathered)
        self.attend = (
            nn.Conv2d(gathered + deeper_channels, 2, 1) if deeper_channels else nn.Identity()
        )
        self.expand = nn.Conv2d(gathered, out, 3, padding=1, bias=False)
        self.expand_norm = nn.BatchNorm2d(out)
        for convolution in (self.reduce, self.expand):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(
        self,
        feature: Float[Tensor, "batch channels height width"],
        deeper: Float[Tensor, "batch gathered deeper_height deeper_width"] | None,
        size: torch.Size,
    ) -> tuple[
        Float[Tensor, "batch out out_height out_width"],
        Float[Tensor, "batch gathered out_height out_width"],
    ]:
        """Return the map to compare with the teacher's, and what is passed to shallower stages.

        Args:
            feature: the stage's map.
            deeper: what the deeper stages have gathered; None at the deepest.
            size: height and width of the teacher's map.
        """
        fused = self.reduce_norm(self.reduce(feature.to(self.reduce.weight.dtype)))
        if deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            weights = self.attend(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * weights[:, :1] + deeper * weights[:, 1:]
        if fused.shape[2:] != size:
            fused = F.interpolate(fused, size, mode="nearest")
        return self.expand_norm(self.expand(fused)), fused


def hcl(
    student_feature: Float[Tensor, "batch channels height width"],
    teacher_feature: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    r"""Return the hierarchical context loss of two maps of one shape.

    The mean squared error of the maps, and of their average poolings to 4 x 4, 2 x 2 and 1 x 1
    places as far as the maps have more; each level weighs half of the one before, and the weights
    are normalised to 1.

    Args:
        student_feature: the student's map, fused.
        teacher_feature: the teacher's.

    Source: Chen et al., "Distilling Knowledge via Knowledge Review" (CVPR 2021), section 3.3.
    """
    teacher_feature = teacher_feature.to(student_feature.dtype)
    losses = [F.mse_loss(student_feature, teacher_feature)]
    for places in (4, 2, 1):
        if places < min(student_feature.shape[2:]):
            student = F.adaptive_avg_pool2d(student_feature, places)
            teacher = F.adaptive_avg_pool2d(teacher_feature, places)
            losses.append(F.mse_loss(student, teacher))
    weights = [0.5**level for level in range(len(losses))]
    weighted = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
    return torch.stack(weighted).sum() / sum(weights)
