"""Wide residual networks for 32 x 32 images: pre-activation blocks in three stages.

Parameter names and shapes are those of the RepDistiller repository, so that its published
CIFAR-100 checkpoints load. Source: Zagoruyko and Komodakis, "Wide Residual Networks" (BMVC 2016),
table 1; the blocks: He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016).
"""

from collections import OrderedDict
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.errors import UserError
from rlkd.models.cifar.common import he_normal, stage


class PreActivationBlock(nn.Module):
    """Twice BN-ReLU-Conv3x3, and the shortcut around them."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.convShortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if in_channels != out_channels
            else None
        )

    def forward(
        self, x: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return residual + shortcut; a projecting shortcut takes the activated input."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        residual = F.relu(self.bn2(self.conv1(activated)))
        return shortcut + self.conv2(residual)


class WideResNet(nn.Module):
    """A wide ResNet of depth 6n + 4.

    Args:
        depth: number of layers with weights, 6n + 4 with n >= 1.
        widen_factor: the stages have 16, 32 and 64 times as many channels.
        num_classes: size of the logits.
        in_channels: channels of the images, 3 for colour.

    Raises:
        UserError: if the depth is not of the form 6n + 4.
    """

    # The stages end before an activation, as in RepDistiller; the next block begins with it.
    taps: ClassVar[dict[str, str]] = {
        "stem": "conv1",
        "stage1": "block1",
        "stage2": "block2",
        "stage3": "block3",
        "final": "relu",
        "embedding": "fc:input",
    }

    def __init__(
        self, *, depth: int, widen_factor: int = 1, num_classes: int = 100, in_channels: int = 3
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise UserError(f"depth={depth}: a wide ResNet has 6n + 4 layers, such as 16 or 40")
        widths = [widen_factor * width for width in (16, 32, 64)]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = _layers(16, widths[0], blocks, stride=1)
        self.block2 = _layers(widths[0], widths[1], blocks, stride=2)
        self.block3 = _layers(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()
        self.fc = nn.Linear(widths[2], num_classes)
        he_normal(self)
        nn.init.zeros_(self.fc.bias)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.relu(self.bn1(x)).mean(dim=(-2, -1)))


def _layers(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    made = stage(PreActivationBlock, in_channels, out_channels, blocks, stride)
    return nn.Sequential(OrderedDict(layer=made))
