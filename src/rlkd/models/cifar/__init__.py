"""Networks of the CIFAR-100 distillation benchmarks, by name; a family adds its own entries.

Each class or network has `taps`, the module paths of its features: "stem", "stage1" and so on, and
"embedding". A path that ends in ":input" means what goes into that module.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from rlkd.models.cifar.mobilenet import MobileNetV2
from rlkd.models.cifar.resnet import BottleneckResNet, ResNet
from rlkd.models.cifar.shufflenet_v1 import ShuffleNetV1
from rlkd.models.cifar.shufflenet_v2 import ShuffleNetV2
from rlkd.models.cifar.vgg import VGG
from rlkd.models.cifar.wide_resnet import WideResNet

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

WIDE_RESNETS: dict[str, Callable[..., nn.Module]] = {
    f"wrn_{depth}_{factor}": partial(WideResNet, depth=depth, widen_factor=factor)
    for depth in (16, 40)
    for factor in (1, 2)
}
"""Wide ResNets by depth and widening factor."""

VGGS: dict[str, Callable[..., nn.Module]] = {
    "vgg8": partial(VGG, layers=(1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, layers=(1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, layers=(2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, layers=(2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, layers=(2, 2, 4, 4, 4)),
}
"""VGG networks with batch norm."""

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **RESNETS,
    "ResNet50": BottleneckResNet,
    **WIDE_RESNETS,
    **VGGS,
    "MobileNetV2": MobileNetV2,
    "ShuffleV1": ShuffleNetV1,
    "ShuffleV2": ShuffleNetV2,
}
"""Every network of this package; each takes the keywords num_classes and in_channels."""
