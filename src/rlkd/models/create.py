"""A name becomes a network: packaged, torchvision's, timm's, or anybody's own."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from rlkd.errors import UserError
from rlkd.models import cifar, small

_PACKAGED: dict[str, Callable[..., nn.Module]] = {**cifar.BUILDERS, **small.BUILDERS}
_FORMS = (
    f"one of {', '.join(_PACKAGED)}; or 'torchvision:NAME'; or 'timm:NAME'; or "
    "'package.module:factory'"
)


def names() -> list[str]:
    """Return the names of the packaged networks."""
    return list(_PACKAGED)


def create(name: str, *, num_classes: int, in_channels: int = 3, **kwargs: Any) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        name: a packaged name (see `names`), "torchvision:NAME" or "timm:NAME" for a classifier of
            those libraries, or "package.module:factory" for a callable that takes `num_classes`
            and returns a module. Upper and lower case differ.
        num_classes: size of the logits.
        in_channels: channels of the images. torchvision's networks take 3; timm's are told as
            `in_chans`; a factory is told if its signature has the parameter.
        **kwargs: passed on.

    Raises:
        UserError: if no network has this name, if its library is not installed, or if it does not
            take these arguments.
    """
    arguments: dict[str, Any] = {"num_classes": num_classes, **kwargs}
    source, separator, attribute = name.partition(":")
    if not separator:
        factory = _PACKAGED.get(name)
        if factory is None:
            raise _unknown(name, names())
        return _build(name, factory, {"in_channels": in_channels, **arguments})
    if source == "torchvision":
        if in_channels != 3:
            raise UserError(
                f"model '{name}': torchvision's networks take 3 channels, the images have "
                f"{in_channels}; use a packaged network or your own factory"
            )
        return _build(name, _torchvision_factory(attribute), {"weights": None, **arguments})
    if source == "timm":
        factory = _timm_factory(name, attribute)
        return _build(name, factory, {"in_chans": in_channels, **arguments})
    factory = _imported(name, source, attribute)
    if _takes_in_channels(factory, in_channels):
        arguments["in_channels"] = in_channels
    return _build(name, factory, arguments)


def _build(name: str, factory: Callable[..., Any], arguments: dict[str, Any]) -> nn.Module:
    try:
        network = factory(**arguments)
    except TypeError as error:
        given = ", ".join(arguments)
        raise UserError(f"model '{name}' does not take the arguments {given}: {error}") from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"model '{name}' returned a {type(network).__name__}; return a torch.nn.Module"
        )
    return network


def _torchvision_factory(name: str) -> Callable[..., nn.Module]:
    # Imported here because it takes a second, and a packaged name does not need it.
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(f"torchvision:{name}", [f"torchvision:{each}" for each in known])
    return models.get_model_builder(name)


def _timm_factory(name: str, architecture: str) -> Callable[..., Any]:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise UserError(f"model '{name}' needs timm ({error}): pip install timm") from error
    known: list[str] = timm.list_models()
    # "resnet18.a1_in1k" names published weights too; whether to load them is `pretrained`'s word.
    base, _, weights = architecture.partition(".")
    if base not in known:
        raise _unknown(name, [f"timm:{each}" for each in known])
    tagged: list[str] = timm.list_pretrained(f"{base}.*")
    if weights and architecture not in tagged:
        raise _unknown(name, [f"timm:{each}" for each in tagged])
    return partial(timm.create_model, architecture, pretrained=False)


def _imported(name: str, module_name: str, attribute: str) -> Callable[..., Any]:
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UserError(f"model '{name}' is not of an allowed form; give {_FORMS}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"model '{name}': cannot import '{module_name}' ({error}); install it, or add its "
            "folder to PYTHONPATH"
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise _unknown(name, [f"{module_name}:{each}" for each in vars(module) if each[0] != "_"])
    if not callable(factory):
        raise UserError(f"model '{name}' is a {type(factory).__name__}; give a function or class")
    return factory


def _takes_in_channels(factory: Callable[..., Any], in_channels: int) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:
        return False
    # A `**kwargs` may or may not take it: it is told only what differs from its likely default.
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return "in_channels" in parameters or (open_ended and in_channels != 3)


def _unknown(name: str, known: Sequence[str]) -> UserError:
    by_lower_case = {each.lower(): each for each in known}
    wanted = difflib.SequenceMatcher(b=name.lower())

    def longest_common_run(candidate: str) -> int:
        wanted.set_seq1(candidate)
        return wanted.find_longest_match().size

    near = difflib.get_close_matches(name.lower(), by_lower_case)
    # Several are often equally near: resnet21 is to mean resnet20 rather than resnet32.
    near.sort(key=longest_common_run, reverse=True)
    nearest = " or ".join(f"'{by_lower_case[each]}'" for each in near)
    hint = f"; did you mean {nearest}?" if near else "."
    return UserError(f"model '{name}' is unknown{hint} Give {_FORMS}")
