"""Bodies of feature pyramids: networks of torchvision and timm, and small stacks.

Each function takes the detector's `name` for messages, the `strides` of the maps (None for all of
4, 8, 16, 32 that the network has), and whether to load published weights. Each raises a `UserError`
if the network has no such maps, or its weights cannot be loaded.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import Conv2dNormActivation

from rlkd.errors import UserError, one_line
from rlkd.models.detection.pyramid import DRY_SIZE, stride_of
from rlkd.models.eval_mode import evaluating
from rlkd.models.factories import timm_factory

STRIDES = (4, 8, 16, 32)
"""Pixels of the image a cell of each level, finest first."""


def torchvision_body(
    name: str, architecture: str, *, strides: Sequence[int] | None, pretrained: bool
) -> nn.Module:
    """Return one of torchvision's classifiers, without its head.

    Of several published weights the first are loaded, as torchvision's own detectors do.
    """
    weights = None
    if pretrained:
        published = models.get_model_weights(architecture)
        weights = getattr(published, "IMAGENET1K_V1", next(iter(published)))
    build = partial(models.get_model, architecture, weights=weights)
    network = fetched(name, build) if pretrained else build()
    trunk = network if isinstance(network, models.ResNet) else getattr(network, "features", None)
    if not isinstance(trunk, models.ResNet | nn.Sequential):
        raise UserError(
            f"model '{name}': torchvision's {architecture} is not a chain of blocks whose maps "
            "could be taken; choose a ResNet, MobileNet or other network of 'features', or "
            "'fasterrcnn_timm:NAME'"
        )
    return _chain_body(trunk, name, strides)


def timm_body(
    name: str, architecture: str, *, strides: Sequence[int] | None, pretrained: bool, forms: str
) -> nn.Module:
    """Return one of timm's networks, built with `features_only`.

    The architecture may carry the tag of its published weights; `forms` are the names that are
    allowed, for messages.
    """
    factory = timm_factory(name, architecture, forms=forms)
    try:
        found: list[int] = factory(features_only=True).feature_info.reduction()
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"model '{name}': timm gives no maps of {architecture} ({one_line(error)[:200]}); "
            "choose a network that it gives with features_only"
        ) from error
    by_stride = {stride: index for index, stride in enumerate(found)}
    indices = [by_stride[each] for each in _chosen(name, by_stride, strides)]
    build = partial(factory, features_only=True, out_indices=indices, pretrained=pretrained)
    return fetched(name, build) if pretrained else build()


def packaged_body(
    name: str,
    *,
    channels: Sequence[int],
    layers: int,
    strides: Sequence[int] | None,
    pretrained: bool,
) -> nn.Module:
    """Return a stack of Conv3x3-BN-ReLU layers, which has no published weights.

    A stage halves the image in its first layer. The first stage has one layer, each other `layers`.
    """
    if pretrained:
        raise UserError(
            f"model '{name}' has no published weights of its backbone: set "
            "pretrained_backbone=false, or name a backbone of torchvision's or timm's"
        )
    stages: list[nn.Module] = []
    inputs = 3
    for outputs in channels:
        stage = [Conv2dNormActivation(inputs, outputs, stride=2)]
        stage += [Conv2dNormActivation(outputs, outputs) for _ in range(layers - 1) if stages]
        stages.append(nn.Sequential(*stage))
        inputs = outputs
    return _chain_body(nn.Sequential(*stages), name, strides)


def fetched(name: str, build: Callable[[], Any]) -> Any:
    """Call a builder that may download weights.

    Raises:
        UserError: if the weights cannot be loaded.
    """
    try:
        return build()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"model '{name}': its published weights could not be loaded ({one_line(error)[:200]}); "
            f"where there is no network, put their file under {torch.hub.get_dir()}/checkpoints "
            "(torchvision) or into Hugging Face's cache (timm), or start without them"
        ) from error


def _chain_body(trunk: nn.Module, name: str, strides: Sequence[int] | None) -> nn.Module:
    blocks = dict(trunk.named_children())
    last = next(reversed(blocks), "")
    # The widening before the classifier is no part of the features, nor is it in timm's networks.
    if isinstance(blocks[last], Conv2dNormActivation):
        del blocks[last]
    by_stride: dict[int, str] = {}
    x = torch.zeros(1, 3, *DRY_SIZE)
    with evaluating(trunk), torch.no_grad():
        for block, module in blocks.items():
            x = module(x)
            stride = stride_of(x)
            if stride is None:
                break
            by_stride[stride] = block
    chosen = _chosen(name, by_stride, strides)
    levels = {by_stride[stride]: str(level) for level, stride in enumerate(chosen)}
    return IntermediateLayerGetter(trunk, levels)


def _chosen(name: str, found: dict[int, Any], wanted: Sequence[int] | None) -> list[int]:
    chosen = [each for each in STRIDES if each in found] if wanted is None else sorted(wanted)
    if missing := [each for each in chosen if each not in found]:
        raise UserError(
            f"model '{name}' has no map of stride {missing[0]}; choose strides of "
            f"{', '.join(map(str, found))}"
        )
    if len(chosen) < 2:
        raise UserError(
            f"model '{name}': a pyramid needs maps of two strides or more, channels first; there "
            f"are {', '.join(map(str, chosen)) or 'none'}; choose more, or another backbone"
        )
    return chosen
