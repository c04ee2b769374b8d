"""VGG networks for 32 x 32 images: batch norm, a global average pool, one linear layer.

Parameter names and shapes are those of the RepDistiller repository, so that its published
CIFAR-100 checkpoints load. Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for
Large-Scale Image Recognition" (ICLR 2015), table 1, columns A, B, D and E.
"""

from itertools import pairwise
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional as F

from rlkd.models.cifar.common import he_normal, small_normal

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five stages of 3 x 3 convolutions, the image halved after each of the first three.

    Images of 64 pixels or more are halved after the fourth as well.

    Args:
        layers: convolutions of each stage, one or more.
        num_classes: size of the logits.
        in_channels: channels of the images, 3 for colour.
    """

    taps: ClassVar[dict[str, str]] = {
        "stem": "relu0",
        "stage1": "relu1",
        "stage2": "relu2",
        "stage3": "relu3",
        "stage4": "relu4",
        "embedding": "classifier:input",
    }

    def __init__(
        self,
        *,
        layers: tuple[int, int, int, int, int],
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        widths = pairwise((in_channels, *_WIDTHS))
        blocks = [_block(*each, count) for each, count in zip(widths, layers, strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        # The published parameter names leave the last activation of a block outside it.
        self.relu0, self.relu1, self.relu2, self.relu3, self.relu4 = (nn.ReLU() for _ in blocks)
        self.classifier = nn.Linear(_WIDTHS[-1], num_classes)
        he_normal(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        small_normal(self.classifier)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        x = F.max_pool2d(self.relu0(self.block0(x)), 2)
        x = F.max_pool2d(self.relu1(self.block1(x)), 2)
        x = F.max_pool2d(self.relu2(self.block2(x)), 2)
        x = _halved_if_large(self.relu3(self.block3(x)))
        x = self.relu4(self.block4(x))
        return self.classifier(x.mean(dim=(-2, -1)))


@fx.wrap
def _halved_if_large(
    x: Float[Tensor, "batch channels in_height in_width"],
) -> Float[Tensor, "batch channels out_height out_width"]:
    # Wrapped, since a tracer that looks inside cannot follow a branch on the size.
    return F.max_pool2d(x, 2) if min(x.shape[-2:]) >= 8 else x


def _block(in_channels: int, out_channels: int, layers: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for inputs in (in_channels, *[out_channels] * (layers - 1)):
        conv = nn.Conv2d(inputs, out_channels, 3, padding=1)
        modules += [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*modules[:-1])
