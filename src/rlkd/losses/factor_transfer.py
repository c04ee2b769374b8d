"""Factor transfer: the student learns a compressed, retold form of the teacher's map."""

import itertools

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd import arguments
from rlkd.checks import float32_or_better
from rlkd.losses.attention import attention_map, matched_maps
from rlkd.losses.logits import Reduction, reduced

SLOPE = 0.1
"""Of the leaky ReLUs."""


def ft(
    student_feature: Float[Tensor, "batch student_channels student_height student_width"],
    teacher_feature: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """Return the mean absolute difference of two factors' attention maps, each of norm 1.

    FT, factor transfer. Channels may differ; the larger map is average-pooled.

    Args:
        student_feature: the student's factor, from a `Translator`.
        teacher_feature: the teacher's factor, from a `Paraphraser`.
        reduction: `mean` over the batch, or `none` for one value a row.

    Raises:
        UserError: if a feature is not a batch of maps.

    Source: Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer"
    (NeurIPS 2018), section 3, with p = 1; that the factors are squared and averaged over channels
    first is the RepDistiller repository's.
    """
    student, teacher = matched_maps(student_feature, teacher_feature)
    loss = (attention_map(student) - attention_map(teacher)).abs().mean(dim=1)
    return reduced(loss, reduction)


class FT(nn.Module):
    """`ft` between the factors of both networks, and what trains the teacher's paraphraser.

    In the paper the paraphraser is trained first, to rebuild the teacher's map, and then frozen.
    Here it is trained in the same steps as the student, by a term of its own: the value is
    ft(factors) + reconstruction_weight * (mean squared error of the rebuilt map). The two do not
    mix: the transfer trains the translator and the student, the reconstruction the paraphraser.
    So the student's goal moves while the paraphraser is still learning.

    For the paper's two stages train a `Paraphraser`, make this with `reconstruction_weight=0`,
    which freezes the paraphraser, and load its weights into `paraphraser`.

    Args:
        student_feature: an example of the student's map; only its shape is read.
        teacher_feature: an example of the teacher's.
        ratio: channels of the factor over those of the teacher's map, above 0; 0.5 in the
            RepDistiller repository.
        reconstruction_weight: 0 or more. The term's weight multiplies it too: at the published
            200, the default trains the paraphraser at 0.2 of the student's learning rate (0.01
            of 0.05, which the RepDistiller repository pre-trains it with).

    Raises:
        UserError: if a feature is not a batch of maps, or an option is out of its range.
    """

    def __init__(
        self,
        student_feature: Float[Tensor, "_ student_channels student_height student_width"],
        teacher_feature: Float[Tensor, "_ teacher_channels teacher_height teacher_width"],
        *,
        ratio: float = 0.5,
        reconstruction_weight: float = 0.001,
    ) -> None:
        super().__init__()
        matched_maps(student_feature, teacher_feature)
        arguments.number("ratio", ratio, above=0, most=100)
        arguments.number("reconstruction_weight", reconstruction_weight, least=0)
        channels = teacher_feature.shape[1]
        factor_channels = max(int(channels * ratio), 1)
        self.paraphraser = Paraphraser(channels, factor_channels)
        self.translator = Translator(student_feature.shape[1], factor_channels)
        self.reconstruction_weight = reconstruction_weight
        self.paraphraser.requires_grad_(reconstruction_weight > 0)

    def forward(
        self,
        student_feature: Float[Tensor, "batch student_channels student_height student_width"],
        teacher_feature: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    ) -> Float[Tensor, ""]:
        """Return the loss of the factors and, weighted, of the rebuilt map."""
        student, teacher = float32_or_better(student_feature), float32_or_better(teacher_feature)
        factor, rebuilt = self.paraphraser(teacher)
        transfer = ft(self.translator(student), factor.detach())
        return transfer + self.reconstruction_weight * F.mse_loss(rebuilt, teacher)


class Translator(nn.Sequential):
    """Turns the student's map into a factor: three 3 x 3 convolutions with leaky ReLUs.

    Args:
        in_channels: of the student's map.
        factor_channels: of the factor.
        batch_norm: whether each convolution is followed by a batch norm.
    """

    def __init__(self, in_channels: int, factor_channels: int, *, batch_norm: bool = True) -> None:
        widths = (in_channels, in_channels, factor_channels, factor_channels)
        super().__init__(*_layers(nn.Conv2d, widths, batch_norm))


class Paraphraser(nn.Module):
    """Compresses the teacher's map to a factor, and can rebuild the map from it.

    Args:
        in_channels: of the teacher's map.
        factor_channels: of the factor.
    """

    def __init__(self, in_channels: int, factor_channels: int) -> None:
        super().__init__()
        widths = (in_channels, in_channels, factor_channels, factor_channels)
        self.encoder = nn.Sequential(*_layers(nn.Conv2d, widths, False))
        self.decoder = nn.Sequential(*_layers(nn.ConvTranspose2d, widths[::-1], False))

    def forward(
        self, teacher_feature: Float[Tensor, "batch channels height width"]
    ) -> tuple[
        Float[Tensor, "batch factor_channels height width"],
        Float[Tensor, "batch channels height width"],
    ]:
        """Return the factor, and the map rebuilt from it."""
        factor = self.encoder(teacher_feature)
        return factor, self.decoder(factor)


def _layers(
    convolution: type[nn.Conv2d] | type[nn.ConvTranspose2d],
    widths: tuple[int, ...],
    batch_norm: bool,
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for in_channels, out_channels in itertools.pairwise(widths):
        layers.append(convolution(in_channels, out_channels, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.LeakyReLU(SLOPE))
    return layers
