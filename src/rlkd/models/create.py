"""A name becomes a network: packaged, torchvision's, timm's, or anybody's own."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from rlkd.errors import UserError
from rlkd.models import cifar, small
from rlkd.models.factories import built, imported, timm_factory, unknown_name
from rlkd.models.outputs import giving_logits
from rlkd.trust import is_defined_in

_PACKAGED: dict[str, Callable[..., nn.Module]] = {**cifar.BUILDERS, **small.BUILDERS}
_ROOMS = ("rlkd.models", "torchvision.models", "timm.models")
"""Packages whose factories need no trust: a configuration gives them two numbers alone."""
_FORMS = (
    f"one of {', '.join(_PACKAGED)}; or 'torchvision:NAME'; or 'timm:NAME'; or "
    "'package.module:factory'"
)


def names() -> list[str]:
    """Return the names of the packaged networks."""
    return list(_PACKAGED)


def create(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    trusted: Collection[str] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a network with fresh weights, which returns logits: see `giving_logits`.

    Args:
        name: a packaged name (see `names`), "torchvision:NAME" or "timm:NAME" for a classifier of
            those libraries, or "package.module:factory" for a callable that takes `num_classes`
            and returns a module. Upper and lower case differ.
        num_classes: size of the logits.
        in_channels: channels of the images. torchvision's networks take 3; timm's get them as
            `in_chans`; a factory gets them if its signature has the parameter.
        trusted: where the name is a configuration's: the packages, besides torchvision and timm,
            whose factories it may call, see `rlkd.trust`. None where it is the caller's own.
        **kwargs: passed on.

    Raises:
        UserError: if no network has this name, if its library is not installed, if it does not take
            these arguments, or if its code is not to be run.
    """
    arguments: dict[str, Any] = {"num_classes": num_classes, **kwargs}
    if ":" not in name:
        factory = _PACKAGED.get(name)
        if factory is None:
            raise unknown_name(name, names(), forms=_FORMS)
        return built(name, factory, {"in_channels": in_channels, **arguments})
    made = _elsewhere(name, in_channels, arguments, trusted)
    return giving_logits(made, name, num_classes)


def _elsewhere(
    name: str, in_channels: int, arguments: dict[str, Any], trusted: Collection[str] | None
) -> nn.Module:
    source, _, attribute = name.partition(":")
    if source == "torchvision":
        if in_channels != 3:
            raise UserError(
                f"model '{name}': torchvision's networks take 3 channels, the images have "
                f"{in_channels}; use a packaged network or your own factory"
            )
        return built(name, _torchvision_factory(attribute), {"weights": None, **arguments})
    if source == "timm":
        factory = timm_factory(name, attribute, forms=_FORMS)
        return built(name, factory, {"in_chans": in_channels, **arguments})
    factory = imported(name, source, attribute, trusted, rooms=_ROOMS, forms=_FORMS)
    if _takes_in_channels(factory, in_channels):
        arguments["in_channels"] = in_channels
    return built(name, factory, {**_without_weights(factory), **arguments})


def _torchvision_factory(name: str) -> Callable[..., nn.Module]:
    # Imported here because it takes a second, and a packaged name does not need it.
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        candidates = [f"torchvision:{each}" for each in known]
        raise unknown_name(f"torchvision:{name}", candidates, forms=_FORMS)
    return models.get_model_builder(name)


def _without_weights(factory: Callable[..., Any]) -> dict[str, None]:
    """Return what keeps a factory of torchvision from fetching weights, as some do by default."""
    if not is_defined_in(factory, ["torchvision"]):
        return {}
    named = inspect.signature(factory).parameters
    return {each: None for each in ("weights", "weights_backbone") if each in named}


def _takes_in_channels(factory: Callable[..., Any], in_channels: int) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:
        return False
    # A `**kwargs` may not take it: it gets only a number that differs from its likely default.
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return "in_channels" in parameters or (open_ended and in_channels != 3)
