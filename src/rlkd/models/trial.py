"""A network is called once before it is used: whether it takes the images, and what it returns."""

import copy
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, product
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rlkd.errors import UserError, notice, one_line
from rlkd.models.eval_mode import evaluating
from rlkd.models.outputs import check_logits, without_logits

Shape = tuple[int, int, int]
"""Channels, height and width."""

Settings = tuple[str | None, str | None]
"""The settings of the channels and the size of images, for messages; None if there is none."""
DATA: Settings = ("data.channels", "data.image_size")

_ROWS = 2
_OTHERS = "images that can be read so (data=folder, say)"
_CHANNELS = (3, 1)
_LOOKING = 5.0
"""Seconds after which no other shape is tried."""
_SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 299, 384, 448, 512)


def called_once(
    network: nn.Module,
    who: str,
    *,
    shape: Shape,
    num_classes: int,
    trains: bool = False,
    settings: Settings = DATA,
) -> nn.Module:
    """Call a network on noise, and return one of the same parameters that has been called.

    It is a copy that shares its parameters, where one can be made: what a call leaves in buffers,
    such as the ranges of a quantisation-aware network, then is the copy's alone. A network with
    lazy modules becomes whole by the call, and is returned itself.

    Args:
        network: a classifier.
        who: its role and its name, for messages.
        shape: of an image.
        num_classes: of the data.
        trains: whether it is called in training mode too.
        settings: what sets the channels and the size of its images.

    Raises:
        UserError: if it raises, or returns no logits of these classes.
        Notice: as a warning, if a softmax is inside it.
    """
    called = network if any(map(is_lazy, _state(network))) else _copy(network)
    with evaluating(called):
        logits = _call(called, who, shape, settings, trains=trains)
    check_logits(who, logits, _ROWS, num_classes)
    if what := without_logits(logits):
        notice(
            f"the {who} returns {what}, as a softmax inside it makes them, and everything here "
            "takes its outputs for logits: return what goes into the softmax"
        )
    # Torch's SyncBatchNorm trains on a GPU alone.
    shared = any(isinstance(each, nn.SyncBatchNorm) for each in network.modules())
    if trains and not shared and (trained := _copy(network)) is not network:
        with torch.random.fork_rng(devices=[]):
            logits = _call(trained.train(), f"{who}, in training,", shape, settings, trains=True)
        check_logits(f"{who}, in training,", logits, _ROWS, num_classes)
    return called


def returned_by(network: nn.Module, layers: Iterable[str], shape: Shape) -> list[str]:
    """Return those of a network's layers whose very output it returns, called on noise.

    Args:
        network: returns logits; is left as it was.
        layers: names of modules; "" for the network itself.
        shape: of an image.
    """
    called, outputs = _copy(network), dict[str, Any]()

    def keep(_module: nn.Module, _given: Any, output: Any, *, layer: str) -> None:
        outputs[layer] = output

    hooks = [
        called.get_submodule(layer).register_forward_hook(partial(keep, layer=layer))
        for layer in layers
    ]
    try:
        with evaluating(called):
            logits = _answer(called, shape)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        layer
        for layer, output in outputs.items()
        if isinstance(output, Tensor)
        and output.dim() > 1
        and torch.equal(output.flatten(1), logits)
    ]


def same_form(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks' states have the same names and shapes."""
    first, second = one.state_dict(), other.state_dict()
    return {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}


def _state(network: nn.Module) -> Iterator[Tensor]:
    return chain(network.parameters(), network.buffers())


def _copy(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network, {id(each): each for each in network.parameters()})
    except Exception:  # a foreign module may hold objects that cannot be copied
        return network


def _call(
    network: nn.Module, who: str, shape: Shape, settings: Settings, *, trains: bool
) -> Tensor:
    try:
        return _answer(network, shape)
    except UserError:
        raise
    except Exception as error:  # a network's own code may raise anything
        said = one_line(error)[:200]
        remedy = _remedy(network, shape, settings, trains=trains)
        raise UserError(
            f"the {who} does not take images of shape {shape} ({type(error).__name__}: {said}): "
            f"{remedy}"
        ) from error


def _answer(network: nn.Module, shape: Shape) -> Tensor:
    noise = torch.randn(_ROWS, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(noise)


def _takes(network: nn.Module, shape: Shape, *, trains: bool) -> bool:
    try:
        for mode in {False, trains}:
            _answer(network.train(mode), shape)
    except Exception:  # the same, of another shape
        return False
    return True


def _remedy(network: nn.Module, shape: Shape, settings: Settings, *, trains: bool) -> str:
    (channels, height, width), (channels_setting, size_setting) = shape, settings
    sizes = product(_SIZES, dict.fromkeys((channels, *_CHANNELS)))
    tries: list[Shape] = [(each, height, width) for each in _CHANNELS]
    end = monotonic() + _LOOKING
    for one in (*tries, *((each, size, size) for size, each in sizes)):
        if monotonic() > end:
            break
        if _takes(network, one, trains=trains):
            given = [] if one[0] == channels else [(channels_setting, one[0])]
            given += [] if one[1:] == (height, width) else [(size_setting, one[1])]
            if all(setting for setting, _ in given):
                asked = " ".join(f"{setting}={value}" for setting, value in given)
                return f"it takes {one}, so give {asked}, or another network"
            return f"it takes {one}, so give {_OTHERS}, or another network"
    asked = f"images of a size that it takes ({size_setting}=224, say)" if size_setting else _OTHERS
    return f"give {asked}, or another network"
