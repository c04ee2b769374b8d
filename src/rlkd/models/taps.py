"""Features of any network by module path, without a change to it."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd.errors import UserError

INPUT = ":input"
"""Ends a path that means what goes into the module, not what comes out of it."""
EMBEDDING = "embedding"


class Taps:
    """Calls a network and keeps what some of its modules give on the way.

    Hooks stay on the modules and do nothing in other calls of the network. A module that is called
    more than once is known by its last call.

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
        self._kept: dict[str, Any] | None = None
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
            UserError: if a module was not called, or gave no tensor.
        """
        self._kept = {}
        try:
            logits = self._call(image)
            kept = self._kept
        finally:
            self._kept = None
        for path in self.paths:
            if path not in kept:
                raise UserError(f"module '{path}' is not called by the network: tap another")
            if not isinstance(kept[path], Tensor):
                given = type(kept[path]).__name__
                raise UserError(f"module '{path}' gives a {given}: tap one that gives a tensor")
        return logits, kept

    def _keeping_input(self, path: str) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if self._kept is not None and arguments:
                self._kept[path] = arguments[0]

        return keep

    def _keeping_output(self, path: str) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if self._kept is not None:
                self._kept[path] = output

        return keep


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
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or known[:4]
    raise UserError(
        f"there is no module '{name}' in {type(network).__name__}: the nearest are "
        f"{', '.join(near)}"
    )


def named_taps(
    network: nn.Module, image: Float[Tensor, "batch channels height width"]
) -> dict[str, str]:
    """Return the paths worth tapping by name: `stem`, `stage1` to `stageN`, `embedding`.

    A network's own `taps`, as the packaged ones have, come first. Otherwise the network is called
    once, in evaluation mode: a stage is the last map of its resolution, and the embedding is what
    goes into the last linear layer.

    Args:
        network: any network.
        image: images that it takes.
    """
    own = getattr(network, "taps", None)
    if isinstance(own, Mapping):
        return {str(name): str(path) for name, path in own.items()}
    by_size: dict[tuple[int, ...], str] = {}
    linear: list[str] = []

    def noting(path: str) -> Callable[..., None]:
        def note(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if isinstance(module, nn.Linear):
                linear.append(path)
            if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1:
                by_size[tuple(output.shape[2:])] = path

        return note

    hooks = [
        module.register_forward_hook(noting(path))
        for path, module in network.named_modules()
        if path
    ]
    modes = [(each, each.training) for each in network.modules()]
    try:
        with torch.no_grad():
            network.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
        for each, training in modes:
            each.training = training
    stages = [by_size[size] for size in sorted(by_size, reverse=True)]
    named = {f"stage{number}": path for number, path in enumerate(stages, start=1)}
    return named | ({EMBEDDING: linear[-1] + INPUT} if linear else {})
