"""ResNets for 32 x 32 images: one 3 x 3 stem, then stages of basic or of bottleneck blocks.

Parameter names and shapes are those of the RepDistiller repository, so that its published
CIFAR-100 checkpoints load. Source: He et al., "Deep Residual Learning for Image Recognition"
(CVPR 2016), section 4.2 and, for bottlenecks, table 1; the wider `8x4` and `32x4`: Tian et al.,
"Contrastive Representation Distillation" (ICLR 2020).
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.errors import UserError
from rlkd.models.cifar.common import he_normal, stage


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and the shortcut around them."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(
        self, x: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return relu(residual + shortcut)."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.downsample(x))


class Bottleneck(nn.Module):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution, and the shortcut around them."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(
        self, x: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return relu(residual + shortcut)."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = F.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual + self.shortcut(x))


class ResNet(nn.Module):
    """A CIFAR ResNet of depth 6n + 2.

    Args:
        depth: number of layers with weights, 6n + 2 with n >= 1.
        widths: channels of the stem and of the three stages.
        num_classes: size of the logits.
        in_channels: channels of the images, 3 for colour.

    Raises:
        UserError: if the depth is not of the form 6n + 2.
    """

    taps: ClassVar[dict[str, str]] = {
        "stem": "relu",
        "stage1": "layer1",
        "stage2": "layer2",
        "stage3": "layer3",
        "embedding": "fc:input",
    }

    def __init__(
        self,
        *,
        depth: int,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise UserError(f"depth={depth}: a CIFAR ResNet has 6n + 2 layers, such as 8, 14 or 20")
        stem, *stages = widths
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = stage(BasicBlock, stem, stages[0], blocks, stride=1)
        self.layer2 = stage(BasicBlock, stages[0], stages[1], blocks, stride=2)
        self.layer3 = stage(BasicBlock, stages[1], stages[2], blocks, stride=2)
        self.fc = nn.Linear(stages[2], num_classes)
        he_normal(self)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class BottleneckResNet(nn.Module):
    """An ImageNet ResNet of four stages of bottlenecks, its stem 3 x 3, stride 1, without pooling.

    Args:
        blocks: blocks of each stage; ResNet-50 has 3, 4, 6 and 3.
        num_classes: size of the logits.
        in_channels: channels of the images, 3 for colour.
    """

    taps: ClassVar[dict[str, str]] = {
        "stem": "relu",
        "stage1": "layer1",
        "stage2": "layer2",
        "stage3": "layer3",
        "stage4": "layer4",
        "embedding": "linear:input",
    }

    def __init__(
        self,
        *,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.layer1 = stage(Bottleneck, 64, 64, blocks[0], stride=1)
        self.layer2 = stage(Bottleneck, 64 * Bottleneck.expansion, 128, blocks[1], stride=2)
        self.layer3 = stage(Bottleneck, 128 * Bottleneck.expansion, 256, blocks[2], stride=2)
        self.layer4 = stage(Bottleneck, 256 * Bottleneck.expansion, 512, blocks[3], stride=2)
        self.linear = nn.Linear(512 * Bottleneck.expansion, num_classes)
        he_normal(self)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean(dim=(-2, -1)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )
