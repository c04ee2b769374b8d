"""ShuffleNet for 32 x 32 images: grouped 1 x 1 convolutions, channels shuffled between groups.

Parameter names and shapes are those of the RepDistiller repository. Source: Zhang et al.,
"ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices" (CVPR 2018),
table 1, 3 groups; the stem is a 1 x 1 convolution without pooling here.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_STEM = 24


class ShuffleUnit(nn.Module):
    """A grouped 1 x 1, a depthwise 3 x 3 and a grouped 1 x 1 convolution, with a shortcut.

    With stride 2 the shortcut is an average pool, and is concatenated instead of added.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        first_groups: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.concatenates = stride == 2
        residual = out_channels - in_channels if self.concatenates else out_channels
        width = residual // 4
        self.conv1 = nn.Conv2d(in_channels, width, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.shuffle = nn.ChannelShuffle(first_groups)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, residual, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(residual)

    def forward(
        self, x: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return relu of residual and shortcut, added or side by side."""
        residual = self.shuffle(F.relu(self.bn1(self.conv1(x))))
        residual = F.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        if self.concatenates:
            shortcut = F.avg_pool2d(x, 3, stride=2, padding=1)
            return F.relu(torch.cat((residual, shortcut), dim=1))
        return F.relu(residual + x)


class ShuffleNetV1(nn.Module):
    """A ShuffleNet of three stages, each of which halves the image.

    Args:
        widths: output channels of each stage.
        units: units of each stage.
        groups: of the 1 x 1 convolutions; the very first has one.
        num_classes: size of the logits.
        in_channels: channels of the images, 3 for colour.
    """

    taps: ClassVar[dict[str, str]] = {
        "stem": "relu",
        "stage1": "layer1",
        "stage2": "layer2",
        "stage3": "layer3",
        "embedding": "linear:input",
    }

    def __init__(
        self,
        *,
        widths: tuple[int, int, int] = (240, 480, 960),
        units: tuple[int, int, int] = (4, 8, 4),
        groups: int = 3,
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU()
        self.layer1 = _stage(_STEM, widths[0], units[0], first_groups=1, groups=groups)
        self.layer2 = _stage(widths[0], widths[1], units[1], first_groups=groups, groups=groups)
        self.layer3 = _stage(widths[1], widths[2], units[2], first_groups=groups, groups=groups)
        self.linear = nn.Linear(widths[2], num_classes)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(-2, -1)))


def _stage(
    in_channels: int, out_channels: int, units: int, *, first_groups: int, groups: int
) -> nn.Sequential:
    first = ShuffleUnit(
        in_channels, out_channels, stride=2, first_groups=first_groups, groups=groups
    )
    later = [
        ShuffleUnit(out_channels, out_channels, stride=1, first_groups=groups, groups=groups)
        for _ in range(units - 1)
    ]
    return nn.Sequential(first, *later)
