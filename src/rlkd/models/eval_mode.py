"""Networks in evaluation mode, or with statistics that stand still, for a while."""

from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]


@contextmanager
def evaluating(network: nn.Module) -> Generator[None]:
    """Put a network and its parts into evaluation mode, and back each into its own.

    What a quantisation-aware network has observed stays as it is, see `observing_nothing`.
    """
    modes = [(each, each.training) for each in network.modules()]
    network.eval()
    try:
        with observing_nothing(network):
            yield
    finally:
        for each, training in modes:
            each.training = training


@contextmanager
def observing_nothing(network: nn.Module) -> Generator[None]:
    """Keep the ranges that a quantisation-aware network has observed as they are for a while.

    Its observers would follow every input, in evaluation mode too. Those that have
    observed nothing yet go on: without a range they cannot quantise.
    """
    switches = [(each, each.clone()) for each in _switches(network)]
    for each, _ in switches:
        each.zero_()
    try:
        yield
    finally:
        for each, was in switches:
            each.copy_(was)


@contextmanager
def frozen_statistics(network: nn.Module) -> Generator[None]:
    """Let batch norms use the batch's statistics and keep running ones and ranges as they are."""
    norms = [each for each in network.modules() if isinstance(each, _BatchNorm)]
    tracked = [each.track_running_stats for each in norms]
    for each in norms:
        each.track_running_stats = False
    try:
        with observing_nothing(network):
            yield
    finally:
        for each, was in zip(norms, tracked, strict=True):
            each.track_running_stats = was


def at_rest(network: nn.Module) -> nn.Module:
    """Put a network into evaluation mode for good, its observers switched off, and return it."""
    for each in _switches(network):
        each.zero_()
    return network.eval()


def _switches(network: nn.Module) -> list[Tensor]:
    """Return the buffers that switch the observers of `torch.ao.quantization` that have a range."""
    switches: list[Tensor] = []
    for module in network.modules():
        switch = getattr(module, "observer_enabled", None)
        lowest = getattr(getattr(module, "activation_post_process", None), "min_val", None)
        if isinstance(switch, Tensor) and isinstance(lowest, Tensor):
            switches += [switch] if lowest.numel() and bool(lowest.isfinite().all()) else []
    return switches
