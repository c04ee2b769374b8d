"""Networks of the CIFAR-100 distillation benchmarks, by name; a family adds its own entries."""

from collections.abc import Callable
from functools import partial

from torch import nn

from rlkd.models.cifar.resnet import ResNet

RESNETS: dict[str, Callable[..., nn.Module]] = {
    **{
        f"resnet{depth}": partial(ResNet, depth=depth, widths=(16, 16, 32, 64))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"resnet{depth}x4": partial(ResNet, depth=depth, widths=(32, 64, 128, 256))
        for depth in (8, 32)
    },
}
"""ResNets of 6n + 2 layers; `x4` is four times as wide."""

BUILDERS: dict[str, Callable[..., nn.Module]] = {**RESNETS}
"""Every network of this package; each takes the keywords num_classes and in_channels."""
