"""Faster R-CNN: over a feature pyramid of any body, or as torchvision builds it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from rlkd import arguments
from rlkd.errors import UserError
from rlkd.models.detection.backbones import fetched
from rlkd.models.detection.pyramid import Pyramid, freeze_norms

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_POOLED = 7
"""Cells of a region's pooled features along either side."""
_SCALE, _LEVEL = 224, 4
"""A region of this many pixels along its sides is pooled from the level of stride 2^4."""
_CLASSES_OF_COCO = 91
"""Of torchvision's published weights: labels are COCO's own category ids, 1 to 90."""


def pyramid_detector(
    name: str,
    body: Callable[..., nn.Module],
    *,
    num_classes: int,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    mean: Sequence[float] = _MEAN,
    std: Sequence[float] = _STD,
    strides: Sequence[int] | None = None,
    pool_level: bool = True,
    fpn_channels: int = 256,
    anchor_sizes: Sequence[int] | None = None,
    regions_per_image: int = 512,
    representation_size: int = 1024,
    pretrained: bool = False,
    pretrained_backbone: bool = False,
    frozen_norms: bool | None = None,
    frozen_levels: int | None = None,
    **further: Any,
) -> FasterRCNN:
    """Build a Faster R-CNN over a feature pyramid.

    Args:
        name: of the detector, for messages.
        body: builds the pyramid's body; called with `name`, `strides` and `pretrained`.
        num_classes: classes of a region, the background counted.
        min_size: pixels of an image's shorter side when resized; of several, training draws one
            for each image, and evaluation takes the last.
        max_size: pixels that the longer side may have.
        mean: of the pixels in [0, 1], per channel: ImageNet's.
        std: likewise.
        strides: pixels a cell of the pyramid's levels; None for all of 4, 8, 16, 32 that the
            backbone has.
        pool_level: adds a level for proposals only, of every second cell of the coarsest.
        fpn_channels: channels of every level.
        anchor_sizes: pixels of the anchors' sides, one a level (the one that is pooled counts);
            None for 8 times the level's stride: 32 to 512. Height by width is 1/2, 1 and 2.
        regions_per_image: regions that training samples.
        representation_size: width of the two layers of the box head.
        pretrained: refused, since no such weights are published.
        pretrained_backbone: start the backbone from its published weights.
        frozen_norms: keep the backbone's batch normalisations fixed; None for those of a
            pretrained one.
        frozen_levels: how many maps of the body, from the finest, keep their weights fixed; None
            for 1 of a pretrained body, as torchvision and detectron2 do, and 0 of another.
        **further: of torchvision's `FasterRCNN`, such as `box_score_thresh`.

    Raises:
        UserError: if an option is out of its range or unknown, or if weights cannot be loaded.

    Source: Ren et al., "Faster R-CNN" (NeurIPS 2015); Lin et al., "Feature Pyramid Networks for
    Object Detection" (CVPR 2017), sections 4 and 5.
    """
    if pretrained:
        raise UserError(
            f"model '{name}' has no published weights of a whole detector: set "
            "pretrained_backbone=true, give a checkpoint, or name 'torchvision:NAME'"
        )
    for option, value in (
        ("fpn_channels", fpn_channels),
        ("regions_per_image", regions_per_image),
        ("representation_size", representation_size),
    ):
        arguments.count(f"model '{name}': {option}", value)
    backbone = Pyramid(
        body(name, strides=strides, pretrained=pretrained_backbone),
        name,
        out_channels=fpn_channels,
        pool_level=pool_level,
    )
    frozen_levels = int(pretrained_backbone) if frozen_levels is None else frozen_levels
    if not 0 <= frozen_levels <= len(backbone.strides):
        raise UserError(
            f"model '{name}': frozen_levels={frozen_levels}; its body has "
            f"{len(backbone.strides)} levels"
        )
    if pretrained_backbone if frozen_norms is None else frozen_norms:
        freeze_norms(backbone.body)
    backbone.freeze_levels(frozen_levels)
    return FasterRCNN(
        backbone,
        **_transform_options(name, min_size, max_size, mean, std),
        rpn_anchor_generator=_anchors(name, backbone, anchor_sizes),
        box_roi_pool=_region_pool(backbone.strides),
        box_head=TwoMLPHead(fpn_channels * _POOLED**2, representation_size),
        box_predictor=FastRCNNPredictor(representation_size, num_classes),
        box_batch_size_per_image=regions_per_image,
        **further,
    )


def torchvision_detector(
    name: str,
    builder: Callable[..., FasterRCNN],
    *,
    num_classes: int,
    min_size: int | Sequence[int] | None = None,
    max_size: int | None = None,
    mean: Sequence[float] = _MEAN,
    std: Sequence[float] = _STD,
    regions_per_image: int = 512,
    pretrained: bool = False,
    pretrained_backbone: bool = False,
    in_published_form: bool = False,
    **further: Any,
) -> FasterRCNN:
    """Build a Faster R-CNN as torchvision does.

    Args:
        name: of the detector, for messages.
        builder: torchvision's function.
        num_classes: classes of a region, the background counted.
        min_size: see `pyramid_detector`; None for the builder's own.
        max_size: likewise.
        mean: likewise.
        std: likewise.
        regions_per_image: regions that training samples.
        pretrained: load the weights published for COCO, of 91 classes.
        pretrained_backbone: start the backbone from its published weights.
        in_published_form: build what `pretrained` builds without loading its weights, which a
            checkpoint replaces.
        **further: of the builder and of torchvision's `FasterRCNN`.

    Raises:
        UserError: if an option is out of its range or unknown, or if weights cannot be loaded.
    """
    if pretrained and num_classes != _CLASSES_OF_COCO:
        raise UserError(
            f"model '{name}': its published weights are of {_CLASSES_OF_COCO} classes (COCO's "
            f"category ids and the background), the data {num_classes}: read data of COCO's "
            "categories with keep_ids=true, or set pretrained=false and give a checkpoint"
        )
    build = partial(
        builder,
        weights="DEFAULT" if pretrained else None,
        weights_backbone="IMAGENET1K_V1" if pretrained_backbone and not pretrained else None,
        num_classes=num_classes,
        box_batch_size_per_image=regions_per_image,
        **_transform_options(name, min_size, max_size, mean, std),
        **further,
    )
    made = fetched(name, build) if pretrained or pretrained_backbone else build()
    if in_published_form and builder is fasterrcnn_resnet50_fpn:  # other forms do not differ
        freeze_norms(made)
        overwrite_eps(made, 0.0)
    return made


def _transform_options(
    name: str,
    min_size: int | Sequence[int] | None,
    max_size: int | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Any]:
    for option, value in {"mean": mean, "std": std}.items():
        if len(value) != 3:
            raise UserError(
                f"model '{name}': {option} has {len(value)} numbers; give one for each of the 3 "
                "channels"
            )
    options: dict[str, Any] = {"image_mean": list(mean), "image_std": list(std)}
    if min_size is not None:
        options["min_size"] = (min_size,) if isinstance(min_size, int) else tuple(min_size)
    if max_size is not None:
        options["max_size"] = max_size
    sizes = (*options.get("min_size", (1,)), options.get("max_size", 1))
    if min(sizes) < 1 or len(sizes) < 2:
        raise UserError(
            f"model '{name}': min_size={min_size}, max_size={max_size}; give pixels, 1 or more"
        )
    return options


def _anchors(name: str, backbone: Pyramid, sizes: Sequence[int] | None) -> AnchorGenerator:
    if sizes is None:
        finest = backbone.strides[0]
        sizes = [8 * finest * 2**level for level in range(backbone.levels)]
    if len(sizes) != backbone.levels:
        raise UserError(
            f"model '{name}': anchor_sizes={list(sizes)}; give one for each of its "
            f"{backbone.levels} levels"
        )
    return AnchorGenerator(
        tuple((int(each),) for each in sizes), ((0.5, 1.0, 2.0),) * backbone.levels
    )


def _region_pool(strides: Sequence[int]) -> MultiScaleRoIAlign:
    names = [str(level) for level in range(len(strides))]
    pool = MultiScaleRoIAlign(
        names, _POOLED, sampling_ratio=2, canonical_scale=_SCALE, canonical_level=_LEVEL
    )
    # By default the strides are estimated from the first batch, wrongly if that is padded much.
    pool.scales = [1 / each for each in strides]
    finest, coarsest = (each.bit_length() - 1 for each in (strides[0], strides[-1]))
    pool.map_levels = LevelMapper(finest, coarsest, _SCALE, _LEVEL)
    return pool
