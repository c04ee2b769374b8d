"""Plain convolutional networks for very small images, such as the 8 x 8 digits."""

from collections.abc import Callable, Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.errors import UserError


class SmallConvNet(nn.Module):
    """A stack of Conv3x3-BN-ReLU layers, a global average pool and a linear classifier.

    The image is halved between layers as long as 2 x 2 pixels or more remain. `taps` names each
    layer as a stage, and the classifier's input.

    Args:
        channels: output channels of each layer; at least one layer.
        num_classes: size of the logits.
        in_channels: channels of the images, 1 for grey.

    Raises:
        UserError: if there is no layer.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        if not channels:
            raise UserError("channels=(): give the output channels of one layer or more")
        inputs = (in_channels, *channels[:-1])
        self.layers = nn.ModuleList(map(_layer, inputs, channels))
        self.fc = nn.Linear(channels[-1], num_classes)
        self.taps = {
            **{f"stage{index + 1}": f"layers.{index}" for index in range(len(channels))},
            "embedding": "fc:input",
        }

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        for index, layer in enumerate(self.layers):
            if index > 0 and min(x.shape[-2:]) >= 4:
                x = F.max_pool2d(x, 2)
            x = layer(x)
        return self.fc(x.mean(dim=(-2, -1)))


def _layer(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "convnet_tiny": partial(SmallConvNet, channels=(4, 8)),
    "convnet_small": partial(SmallConvNet, channels=(32, 64, 64)),
}
"""Networks by name; each takes the keywords num_classes and in_channels."""
