"""Stages of equal blocks, and initial weights that differ from those of PyTorch."""

from typing import Any

from torch import nn


def he_normal(network: nn.Module) -> None:
    """Draw all convolution weights from a normal distribution of variance 2 / fan-out.

    Source: He et al., "Delving Deep into Rectifiers" (ICCV 2015), section 2.2, backward case.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def small_normal(classifier: nn.Linear) -> None:
    """Draw the weights of a classifier with standard deviation 0.01, and no bias."""
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)


def stage(block: Any, in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """Return a row of blocks, of which the first changes the channels and strides."""
    later = [block(block.expansion * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(block(in_channels, width, stride), *later)
