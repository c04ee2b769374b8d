"""Networks in evaluation mode for a while."""

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Generator[None]:
    """Put a network and its parts into evaluation mode, and back each into its own."""
    modes = [(each, each.training) for each in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
