"""A name becomes a two-stage detector: of any backbone, torchvision's whole, or anybody's own."""

import inspect
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torchvision import models
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.roi_heads import RoIHeads

from rlkd.errors import UserError, nearest
from rlkd.models.detection.backbones import packaged_body, timm_body, torchvision_body
from rlkd.models.detection.faster_rcnn import pyramid_detector, torchvision_detector
from rlkd.models.eval_mode import evaluating
from rlkd.models.factories import built, imported, unknown_name

_PREFIX = "fasterrcnn_"
_SET_HERE = {
    "rpn_anchor_generator",
    "rpn_head",
    "box_roi_pool",
    "box_head",
    "box_predictor",
    "box_batch_size_per_image",
}
_TRANSFORM_OPTIONS = ("size_divisible", "fixed_size")
_SMALL: dict[str, Any] = {
    "min_size": 96,
    "max_size": 160,
    "pool_level": False,
    "anchor_sizes": (16, 32, 64),
    "regions_per_image": 64,
    "rpn_pre_nms_top_n_train": 400,
    "rpn_post_nms_top_n_train": 200,
    "rpn_pre_nms_top_n_test": 400,
    "rpn_post_nms_top_n_test": 200,
}
_PACKAGED: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "fasterrcnn_tiny": (
        partial(packaged_body, channels=(12, 16, 32, 64), layers=1),
        {**_SMALL, "fpn_channels": 24, "representation_size": 64},
    ),
    "fasterrcnn_small": (
        partial(packaged_body, channels=(32, 64, 96, 128), layers=2),
        {**_SMALL, "fpn_channels": 64, "representation_size": 128},
    ),
}
_FORMS = (
    f"one of {', '.join(_PACKAGED)}; or 'fasterrcnn_BACKBONE' with a backbone of torchvision such "
    "as resnet18 or mobilenet_v2; or 'fasterrcnn_timm:NAME'; or "
    "'torchvision:fasterrcnn_resnet50_fpn'; or 'package.module:factory'"
)


def detector_names() -> list[str]:
    """Return the names of the packaged detectors."""
    return list(_PACKAGED)


def backbone_detector_names() -> list[str]:
    """Return the names of the detectors over torchvision's classifiers."""
    return [f"{_PREFIX}{each}" for each in models.list_models(module=models)]


def create_detector(
    name: str, *, num_classes: int, trusted: Collection[str] | None = None, **options: Any
) -> FasterRCNN:
    """Build a two-stage detector, with fresh weights unless the options ask for published ones.

    Args:
        name: a packaged name (see `detector_names`), for images of about 100 pixels;
            "fasterrcnn_BACKBONE" for a classifier of torchvision as the backbone of a feature
            pyramid; "fasterrcnn_timm:NAME" for one of timm's; "torchvision:NAME" for a whole Faster
            R-CNN of torchvision's; or "package.module:factory" for a callable that takes
            `num_classes` and returns one. Upper and lower case differ.
        num_classes: of a region, the background counted.
        trusted: where the name is a configuration's: the packages whose factories it may call, see
            `rlkd.trust`. None where it is the caller's own.
        **options: of `faster_rcnn.pyramid_detector` for the first three, of
            `faster_rcnn.torchvision_detector` for the fourth; a factory is called with all of them.

    Raises:
        UserError: if no detector has this name, if its library is not installed, if it does not
            take these options, if weights cannot be had, or if what it returns is not a two-stage
            detector of these classes.

    In mixed precision boxes and logits are computed in float32 all the same.
    """
    if num_classes < 2:
        raise UserError(
            f"model '{name}': num_classes={num_classes}; it counts the background: give 2 or more"
        )
    made = _created(name, {"num_classes": num_classes, **options}, num_classes, trusted)
    parts: Any = made
    parts.rpn.anchor_generator.register_forward_pre_hook(_inputs_in_float32)
    parts.rpn.head.register_forward_hook(_outputs_in_float32)
    parts.roi_heads.box_predictor.register_forward_hook(_outputs_in_float32)
    return made


def is_two_stage(module: nn.Module) -> bool:
    """Return whether a module has the parts that classify the regions of another detector.

    These are torchvision's: `transform`, `backbone`, `rpn`, and `roi_heads` with `box_roi_pool`,
    `box_head` and a `box_predictor` that gives logits and four offsets for each class.
    """
    parts = ("transform", "backbone", "rpn", "roi_heads")
    heads = getattr(module, "roi_heads", None)
    head_parts = ("box_roi_pool", "box_head", "box_predictor")
    if not all(isinstance(getattr(module, each, None), nn.Module) for each in parts):
        return False
    if not all(isinstance(getattr(heads, each, None), nn.Module) for each in head_parts):
        return False
    return _num_classes(module) is not None


def _created(
    name: str, arguments: dict[str, Any], num_classes: int, trusted: Collection[str] | None
) -> FasterRCNN:
    source, separator, attribute = name.partition(":")
    if name in _PACKAGED:
        body, defaults = _PACKAGED[name]
        return _faster_rcnn(name, pyramid_detector, body, {**defaults, **arguments})
    if source == "fasterrcnn_timm":
        body = partial(timm_body, architecture=attribute, forms=_FORMS)
        return _faster_rcnn(name, pyramid_detector, body, arguments)
    if not separator:
        body = partial(torchvision_body, architecture=_backbone(name))
        return _faster_rcnn(name, pyramid_detector, body, arguments)
    if source == "torchvision":
        builder = _torchvision_builder(name, attribute)
        return _faster_rcnn(name, torchvision_detector, builder, arguments)
    factory = imported(name, source, attribute, trusted, forms=_FORMS)
    return _two_stage(name, built(name, factory, arguments), num_classes)


def _inputs_in_float32(_module: nn.Module, arguments: Any) -> Any:
    """Keep boxes exact in mixed precision: bfloat16 knows every fourth pixel alone past 512."""
    return _in_float32(arguments)


def _outputs_in_float32(_module: nn.Module, _arguments: Any, output: Any) -> Any:
    return _in_float32(output)


def _in_float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, list | tuple):
        return type(value)(_in_float32(each) for each in cast(Any, value))
    return value


def _faster_rcnn(
    name: str,
    build: Callable[..., FasterRCNN],
    source: Callable[..., Any],
    arguments: dict[str, Any],
) -> FasterRCNN:
    # torchvision's transform ignores unknown keywords silently, a misspelt one too.
    own = _keywords(build, inspect.Parameter.KEYWORD_ONLY)
    further = {
        each
        for each in _keywords(FasterRCNN.__init__, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if each.startswith(("rpn_", "box_", "bbox_"))
    }
    known = [*own, *(further - _SET_HERE), *_TRANSFORM_OPTIONS]
    if build is torchvision_detector:
        known.append("trainable_backbone_layers")
    if unknown := [each for each in arguments if each not in known]:
        near = nearest(unknown[0], known)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(known)}"
        raise UserError(f"model '{name}' has no option '{unknown[0]}'; {hint}")
    return cast(FasterRCNN, built(name, partial(build, name, source), arguments))


def _keywords(function: Callable[..., Any], kind: Any) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind is kind]


def _backbone(name: str) -> str:
    known = backbone_detector_names()
    if name in known:
        return name.removeprefix(_PREFIX)
    if f"{_PREFIX}{name}" in known:
        raise UserError(
            f"model '{name}' is a classifier: name the detector of this backbone, '{_PREFIX}{name}'"
        )
    raise unknown_name(name, [*_PACKAGED, *known], forms=_FORMS)


def _torchvision_builder(name: str, architecture: str) -> Callable[..., FasterRCNN]:
    known = models.list_models(module=models.detection)
    usable = [each for each in known if each.startswith(_PREFIX)]
    if architecture in usable:
        return cast(Callable[..., FasterRCNN], models.get_model_builder(architecture))
    if architecture in known:
        raise UserError(
            f"model '{name}': only two-stage detectors that give boxes are distilled, since their "
            f"regions are shared; take one of {', '.join(f'torchvision:{each}' for each in usable)}"
        )
    raise unknown_name(name, [f"torchvision:{each}" for each in usable], forms=_FORMS)


def _two_stage(name: str, network: nn.Module, num_classes: int) -> FasterRCNN:
    if not isinstance(network, FasterRCNN) or not is_two_stage(network):
        raise UserError(
            f"model '{name}' returned a {type(network).__name__}: only two-stage detectors are "
            "distilled; return torchvision's FasterRCNN, whose roi_heads classify regions"
        )
    heads = cast(RoIHeads, network.roi_heads)
    if heads.has_mask() or heads.has_keypoint():
        raise UserError(
            f"model '{name}' also gives masks or keypoints, which are not distilled: set "
            "roi_heads.mask_head and roi_heads.keypoint_head to None"
        )
    if (found := _num_classes(network)) != num_classes:
        raise UserError(
            f"model '{name}' has {found} classes, the data {num_classes} (the background "
            "counted): build its box_predictor for num_classes"
        )
    return network


def _num_classes(detector: Any) -> int | None:
    """Return the classes of a detector's logits; None if its heads do not work as torchvision's."""
    heads = detector.roi_heads
    head = nn.Sequential(heads.box_head, heads.box_predictor)
    weight = next(head.parameters(), torch.zeros(()))
    try:
        shape = (2, detector.backbone.out_channels, *heads.box_roi_pool.output_size)
        with evaluating(head), torch.no_grad():
            logits, offsets = head(torch.zeros(shape, device=weight.device, dtype=weight.dtype))
        as_torchvision = logits.dim() == 2 and offsets.shape == (2, 4 * logits.shape[1])
    except Exception:  # any error shows that the head is not torchvision's
        return None
    return logits.shape[1] if as_torchvision else None
