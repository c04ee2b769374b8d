"""Features of any network by module path, without a change to it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd.errors import UserError, nearest
from rlkd.models.eval_mode import evaluating

_NO_MAPS = (nn.Linear, nn.LayerNorm, nn.Dropout, nn.Softmax, nn.Identity)
INPUT = ":input"
"""Ends a path that means what goes into the module, not what comes out of it."""
EMBEDDING = "embedding"
FINAL = "final"
"""Names the map whose mean over places is the embedding, where that is not the last stage."""


class Taps:
    """Calls a network and keeps what some of its modules give on the way.

    Hooks stay on the modules and do nothing in other calls of the network.

    Args:
        network: whose modules are tapped.
        paths: of modules, such as "layer3.1"; "fc:input" is the input of "fc".
        call: what to call in place of `network`, which it calls in turn.

    Raises:
        UserError: if there is no such module; it lists the nearest.
    """

    def __init__(
        self,
        network: nn.Module,
        paths: Iterable[str],
        *,
        call: Callable[..., Tensor] | None = None,
    ) -> None:
        self.paths = tuple(dict.fromkeys(paths))
        self._call = call or network
        self._kept: dict[str, list[tuple[Any, int]]] | None = None
        for path in self.paths:
            module = module_at(network, path)
            if path.endswith(INPUT):
                module.register_forward_pre_hook(self._keeping_input(path))
            else:
                module.register_forward_hook(self._keeping_output(path))

    def __call__(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch classes"], dict[str, Tensor]]:
        """Return the logits, and what each path gave.

        Raises:
            UserError: if a module was not called, or more than once, gave no tensor, or one that
                the network changed in place afterwards.
        """
        self._kept = {path: [] for path in self.paths}
        try:
            logits = self._call(image)
            kept = self._kept
        finally:
            self._kept = None
        return logits, {path: _only(path, calls) for path, calls in kept.items()}

    def _keeping_input(self, path: str) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if self._kept is not None and arguments:
                self._kept[path].append(_versioned(arguments[0]))

        return keep

    def _keeping_output(self, path: str) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if self._kept is not None:
                self._kept[path].append(_versioned(output))

        return keep


def _versioned(given: Any) -> tuple[Any, int]:
    return given, given._version if isinstance(given, Tensor) else 0


def _only(path: str, calls: list[tuple[Any, int]]) -> Tensor:
    if len(calls) != 1:
        times = f"called {len(calls)} times" if calls else "not called"
        raise UserError(f"module '{path}' is {times} by the network: tap another")
    given, version = calls[0]
    if not isinstance(given, Tensor):
        raise UserError(
            f"module '{path}' gives a {type(given).__name__}: tap one that gives a tensor"
        )
    if given._version != version:
        raise UserError(
            f"what module '{path}' gives is changed in place by what follows: tap that instead"
        )
    return given


def module_at(network: nn.Module, path: str) -> nn.Module:
    """Return the module at a path, ":input" left aside.

    Raises:
        UserError: if there is none; it lists the nearest.
    """
    modules = dict(network.named_modules())
    name = path.removesuffix(INPUT)
    if name and name in modules:
        return modules[name]
    known = [each for each in modules if each]
    near = nearest(name, known) or known[:3]
    raise UserError(
        f"there is no module '{name}' in {type(network).__name__}: the nearest are "
        f"{', '.join(near)}"
    )


def named_taps(
    network: nn.Module, image: Float[Tensor, "batch channels height width"]
) -> dict[str, str]:
    """Return the paths worth tapping by name: `stem`, `stage1` to `stageN`, `embedding`.

    A network's own `taps`, as the packaged ones have, come first. Otherwise the network is called
    once, in evaluation mode: a stage is the last map of its resolution, as long as maps shrink, and
    the embedding is what goes into the last linear layer. The first of them is the stem where it is
    that of one layer, such as a ReLU, and all later ones are of modules that hold others.

    Left out are modules that are called more than once, maps that the network changes in place
    afterwards, and modules that give no maps of channels first, as attention does. A lone map of
    patches, which attention starts from, is no stage.

    Args:
        network: any network.
        image: images that it takes.
    """
    own = getattr(network, "taps", None)
    if isinstance(own, Mapping):
        return {str(name): str(path) for name, path in own.items()}
    maps: list[tuple[int, str, tuple[Tensor, int]]] = []
    tokens = False
    calls: Counter[str] = Counter()
    linear: list[str] = []
    height, width = image.shape[2:]

    def noting(path: str) -> Callable[..., None]:
        def note(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            nonlocal tokens
            if isinstance(module, nn.Linear):
                linear.append(path)
            calls[path] += 1
            if not isinstance(output, Tensor) or output.dim() not in (3, 4):
                return
            high, wide = output.shape[-2:]
            skew = abs(high * width - wide * height)
            if output.dim() == 3 or skew > height + width:  # more than strides round off
                tokens = True
            elif 1 < high <= height and not skew and not isinstance(module, _NO_MAPS):
                maps.append((high, path, _versioned(output)))

        return note

    hooks = [
        module.register_forward_hook(noting(path))
        for path, module in network.named_modules()
        if path
    ]
    try:
        with evaluating(network), torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    by_size: dict[int, str] = {}
    for size, path, (given, version) in maps:
        kept = calls[path] == 1 and given._version == version
        if kept and size <= min(by_size, default=size):
            by_size[size] = path
    # One map, and rows of tokens or maps of channels last: the one is that of the patches.
    stages = [] if tokens and len(by_size) == 1 else list(by_size.values())
    first, *later = [any(module_at(network, path).children()) for path in stages] or [True]
    named = {"stem": stages.pop(0)} if later and all(later) and not first else {}
    named |= {f"stage{number}": path for number, path in enumerate(stages, start=1)}
    return named | ({EMBEDDING: linear[-1] + INPUT} if linear else {})
