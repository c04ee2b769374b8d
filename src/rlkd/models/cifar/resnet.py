"""ResNets for 32 x 32 images: one 3 x 3 stem and three stages of basic blocks.

Parameter names and shapes are those of the RepDistiller repository, so that its published
CIFAR-100 checkpoints load. Source: He et al., "Deep Residual Learning for Image Recognition"
(CVPR 2016), section 4.2; the wider `8x4` and `32x4`: Tian et al., "Contrastive Representation
Distillation" (ICLR 2020).
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.errors import UserError
from rlkd.models.cifar.initial import he_normal


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and the shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
            if stride != 1 or in_channels != out_channels
            else nn.Identity()
        )

    def forward(
        self, x: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return relu(residual + shortcut)."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.downsample(x))


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
        self.layer1 = _stage(stem, stages[0], blocks, stride=1)
        self.layer2 = _stage(stages[0], stages[1], blocks, stride=2)
        self.layer3 = _stage(stages[1], stages[2], blocks, stride=2)
        self.fc = nn.Linear(stages[2], num_classes)
        he_normal(self)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    later = [BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *later)
