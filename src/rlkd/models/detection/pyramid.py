"""Feature pyramids for detectors, over any network that gives maps of several strides."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rlkd.errors import UserError, one_line
from rlkd.models.eval_mode import evaluating

DRY_SIZE = (64, 96)
"""Height and width of the image of a dry run: two cells or more at stride 32, and not square, so
that maps of channels last are detected."""


class Pyramid(nn.Module):
    """A feature pyramid over the maps of a network, one a stride.

    The weights are called `body.*` and `fpn.*`, as in torchvision's `BackboneWithFPN`.

    Args:
        body: gives its maps, finest first, as a dict or a list.
        name: of the detector, for messages.
        out_channels: channels of every level.
        pool_level: adds a level of every second cell of the coarsest.

    Raises:
        UserError: if the strides of the maps are not powers of 2, each twice the one before.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection" (CVPR 2017), section 3.
    """

    def __init__(
        self, body: nn.Module, name: str, *, out_channels: int, pool_level: bool = True
    ) -> None:
        super().__init__()
        self.body = body
        try:
            with evaluating(body), torch.no_grad():
                maps = _listed(body(torch.zeros(1, 3, *DRY_SIZE)))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(
                f"model '{name}': the network does not take an image of {DRY_SIZE} "
                f"({one_line(error)[:200]}); choose one that takes images of any size"
            ) from error
        strides = [stride_of(each) for each in maps]
        self.strides = tuple(each for each in strides if each is not None)
        doubling = all(b == 2 * a for a, b in zip(self.strides, self.strides[1:], strict=False))
        if None in strides or not doubling:
            shapes = ", ".join(str(tuple(each.shape[1:])) for each in maps)
            raise UserError(
                f"model '{name}': a pyramid needs maps of channels first, each half as fine as the "
                f"one before; an image of {DRY_SIZE} gives {shapes}; choose other strides, or "
                "another backbone"
            )
        self.fpn = FeaturePyramidNetwork(
            [each.shape[1] for each in maps],
            out_channels,
            extra_blocks=LastLevelMaxPool() if pool_level else None,
        )
        self.out_channels = out_channels
        self.levels = len(maps) + pool_level

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> dict[str, Float[Tensor, "batch out_channels _ _"]]:
        """Return the maps by level: "0" is the finest, "pool" the added one."""
        return self.fpn({str(level): each for level, each in enumerate(_listed(self.body(x)))})

    def freeze_levels(self, count: int) -> None:
        """Freeze all weights that the body's first `count` maps depend on."""
        if count == 0:
            return
        weights = [each for each in self.body.parameters() if each.requires_grad]
        with evaluating(self.body), torch.enable_grad():
            last = _listed(self.body(torch.zeros(1, 3, *DRY_SIZE)))[count - 1]
            reached = torch.autograd.grad(last.sum(), weights, allow_unused=True)
        shaping: list[Tensor | None] = list(reached)
        for weight, gradient in zip(weights, shaping, strict=True):
            if gradient is not None:
                weight.requires_grad_(False)


def stride_of(x: Tensor) -> int | None:
    """Return the pixels a cell of a map of the dry run; None if it is not one of channels first."""
    height, width = DRY_SIZE
    if x.dim() != 4 or height % x.shape[2] or width * x.shape[2] != height * x.shape[3]:
        return None
    return height // x.shape[2]


def freeze_norms(module: nn.Module) -> None:
    """Replace batch norms by such of fixed statistics and weights, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _frozen(child))
        else:
            freeze_norms(child)


def _frozen(norm: nn.BatchNorm2d) -> nn.Module:
    if type(norm) is nn.BatchNorm2d:
        frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
        frozen.load_state_dict(norm.state_dict())
        return frozen
    # timm's norms that hold their activation function.
    from timm.layers.norm_act import freeze_batch_norm_2d

    return freeze_batch_norm_2d(norm)


def _listed(maps: Any) -> list[Tensor]:
    return list(maps.values() if isinstance(maps, dict) else maps)
