"""MobileNetV2 for 32 x 32 images, of half width by default as the distillation benchmarks use it.

Parameter names and shapes are those of the RepDistiller repository. Source: Sandler et al.,
"MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), table 2; the second stage
does not halve the image here.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from rlkd.models.cifar.common import he_normal, small_normal

# Expansion of the first block or of all others, channels at full width, blocks, stride.
_STAGES = (
    (False, 16, 1, 1),
    (True, 24, 2, 1),
    (True, 32, 3, 2),
    (True, 64, 4, 2),
    (True, 96, 3, 1),
    (True, 160, 3, 2),
    (True, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """A widening 1 x 1, a depthwise 3 x 3 and a narrowing 1 x 1 convolution without activation.

    A shortcut leads around them where the shape stays.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = expansion * in_channels
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(
        self, x: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return the residual, plus the input where shapes agree."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """A MobileNetV2 that divides the image's side by 16.

    Args:
        expansion: how many times wider a block is inside, in all stages but the first.
        width_factor: multiplies the channels; the last layer has 1280 or more.
        num_classes: size of the logits.
        in_channels: channels of the images, 3 for colour.
    """

    # Linear bottlenecks: the stages end in no activation.
    taps: ClassVar[dict[str, str]] = {
        "stem": "conv1",
        "stage1": "blocks.1",
        "stage2": "blocks.2",
        "stage3": "blocks.4",
        "stage4": "blocks.6",
        "final": "conv2",
        "embedding": "classifier:input",
    }

    def __init__(
        self,
        *,
        expansion: int = 6,
        width_factor: float = 0.5,
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        width, last = int(32 * width_factor), max(1280, int(1280 * width_factor))
        self.conv1 = _layer(in_channels, width, 3, stride=2)
        self.blocks = nn.ModuleList()
        for expands, channels, blocks, stride in _STAGES:
            inputs, width = width, int(channels * width_factor)
            inside = expansion if expands else 1
            later = [InvertedResidual(width, width, 1, inside) for _ in range(blocks - 1)]
            first = InvertedResidual(inputs, width, stride, inside)
            self.blocks.append(nn.Sequential(first, *later))
        self.conv2 = _layer(width, last, 1, stride=1)
        classifier = nn.Linear(last, num_classes)
        self.classifier = nn.Sequential(classifier)
        he_normal(self)
        small_normal(classifier)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = self.conv1(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.conv2(x).mean(dim=(-2, -1)))


def _layer(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
