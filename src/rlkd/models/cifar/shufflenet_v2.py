"""ShuffleNet V2 for 32 x 32 images: channels split, half of them transformed, all shuffled.

Parameter names and shapes are those of the RepDistiller repository. Source: Ma et al., "ShuffleNet
V2: Practical Guidelines for Efficient CNN Architecture Design" (ECCV 2018), table 5, width 1x; the
stem is a 1 x 1 convolution without pooling here.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_STEM = 24


class SplitUnit(nn.Module):
    """Transforms the second half of the channels, keeps the first, and shuffles both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the shuffled halves."""
        kept, changed = x.chunk(2, dim=1)
        changed = F.relu(self.bn1(self.conv1(changed)))
        changed = self.bn2(self.conv2(changed))
        changed = F.relu(self.bn3(self.conv3(changed)))
        return self.shuffle(torch.cat((kept, changed), dim=1))


class DownUnit(nn.Module):
    """Halves the image in two branches, each of which gives half of the channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = _depthwise(in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = _depthwise(half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(
        self, x: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return the shuffled outputs of both branches."""
        short = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        long = F.relu(self.bn3(self.conv3(x)))
        long = self.bn4(self.conv4(long))
        long = F.relu(self.bn5(self.conv5(long)))
        return self.shuffle(torch.cat((short, long), dim=1))


class ShuffleNetV2(nn.Module):
    """A ShuffleNet V2 of three stages, each of which halves the image.

    Args:
        widths: output channels of each stage and of the last 1 x 1 convolution.
        units: units of each stage after the one that halves the image.
        num_classes: size of the logits.
        in_channels: channels of the images, 3 for colour.
    """

    taps: ClassVar[dict[str, str]] = {
        "stem": "relu",
        "stage1": "layer1",
        "stage2": "layer2",
        "stage3": "layer3",
        "final": "relu2",
        "embedding": "linear:input",
    }

    def __init__(
        self,
        *,
        widths: tuple[int, int, int, int] = (116, 232, 464, 1024),
        units: tuple[int, int, int] = (3, 7, 3),
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU()
        self.layer1 = _stage(_STEM, widths[0], units[0])
        self.layer2 = _stage(widths[0], widths[1], units[1])
        self.layer3 = _stage(widths[1], widths[2], units[2])
        self.conv2 = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.relu2 = nn.ReLU()
        self.linear = nn.Linear(widths[3], num_classes)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(x.mean(dim=(-2, -1)))


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)


def _stage(in_channels: int, out_channels: int, units: int) -> nn.Sequential:
    later = [SplitUnit(out_channels) for _ in range(units)]
    return nn.Sequential(DownUnit(in_channels, out_channels), *later)
