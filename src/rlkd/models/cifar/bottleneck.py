"""ImageNet's bottleneck ResNets with a stem for 32 x 32 images: 3 x 3, stride 1, no pooling.

Parameter names and shapes are those of the RepDistiller repository. Source: He et al., "Deep
Residual Learning for Image Recognition" (CVPR 2016), table 1.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.models.cifar.initial import he_normal

_EXPANSION = 4


class Bottleneck(nn.Module):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution, and the shortcut around them."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = _EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = (
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
        residual = F.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual + self.shortcut(x))


class BottleneckResNet(nn.Module):
    """A ResNet of four stages of bottleneck blocks.

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
        self.layer1 = _stage(64, 64, blocks[0], stride=1)
        self.layer2 = _stage(64 * _EXPANSION, 128, blocks[1], stride=2)
        self.layer3 = _stage(128 * _EXPANSION, 256, blocks[2], stride=2)
        self.layer4 = _stage(256 * _EXPANSION, 512, blocks[3], stride=2)
        self.linear = nn.Linear(512 * _EXPANSION, num_classes)
        he_normal(self)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean(dim=(-2, -1)))


def _stage(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    later = [Bottleneck(_EXPANSION * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(in_channels, width, stride), *later)
