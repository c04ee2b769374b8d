"""Networks as people bring them, for images of digits."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)


def hf_vit(num_classes: int, in_channels: int) -> nn.Module:
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=in_channels,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=num_classes,
    )
    return ViTForImageClassification(config)


def hf_resnet(num_classes: int, in_channels: int) -> nn.Module:
    config = ResNetConfig(
        num_channels=in_channels,
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        layer_type="basic",
        num_labels=num_classes,
    )
    return ResNetForImageClassification(config)


class Plain(nn.Module):
    """Two layers; a subclass says what it returns of features and logits."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Any:
        features = self.body(x).mean((2, 3))
        return self.returned(features, self.fc(features))

    def returned(self, features: Tensor, logits: Tensor) -> Any:
        return logits


class FeaturesFirst(Plain):
    def returned(self, features: Tensor, logits: Tensor) -> Any:
        return [features], logits


class LogitsFirst(Plain):
    def returned(self, features: Tensor, logits: Tensor) -> Any:
        return logits, features


class TupleInTraining(Plain):
    def returned(self, features: Tensor, logits: Tensor) -> Any:
        return (logits, logits + 1) if self.training else logits


class Dictionary(Plain):
    def returned(self, features: Tensor, logits: Tensor) -> Any:
        return {"features": features, "logits": logits}


class LargerInTraining(Plain):
    """Takes images of 16 pixels, but for training of 96, as an auxiliary head may."""

    def forward(self, x: Tensor) -> Any:
        if min(x.shape[2:]) < (96 if self.training else 16):
            raise ValueError("too small")
        return super().forward(x)


class TwoHeads(Plain):
    def returned(self, features: Tensor, logits: Tensor) -> Any:
        return logits, logits + 1


class FeaturesAlone(Plain):
    def returned(self, features: Tensor, logits: Tensor) -> Any:
        return {"features": features}


class Softmaxed(Plain):
    def returned(self, features: Tensor, logits: Tensor) -> Any:
        return logits.softmax(1)


class LogSoftmaxed(Plain):
    def returned(self, features: Tensor, logits: Tensor) -> Any:
        return logits.log_softmax(1)


def lazy(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(num_classes)
    )


def grey_alone(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))


def quantised(num_classes: int, in_channels: int) -> nn.Module:
    network = nn.Sequential(
        torch.ao.quantization.QuantStub(),
        nn.Conv2d(in_channels, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, num_classes),
        torch.ao.quantization.DeQuantStub(),
    ).train()
    with warnings.catch_warnings(action="ignore"):  # of torch.ao, which is deprecated
        network.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
        return torch.ao.quantization.prepare_qat(network)
