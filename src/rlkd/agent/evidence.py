"""How far the actor may move: as far as one update after the other says the same."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

_MEMORY = 0.9
"""Share of what was known that an update leaves."""
_SPREAD = 0.3
"""Least standard deviation of one agreement: two updates that happen to agree prove little."""


class Evidence(nn.Module):
    """Compares the policy gradients of successive updates, which see other instances.

    What their rewards have in common points both the same way; noise does not. The mean cosine of
    the angle between two of them is the share of signal in one, and is 0 for rewards of pure noise.

    Args:
        weights: numbers in a gradient.
    """

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(weights))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("square", torch.zeros(()))
        self.register_buffer("known", torch.zeros(()))
        self.register_buffer("known_square", torch.zeros(()))

    last: Tensor
    """The direction of the gradient before, of length 1; 0 before the first."""
    mean: Tensor
    square: Tensor
    known: Tensor
    """Sum of the weights in `mean` and `square`, towards 1."""
    known_square: Tensor
    """Sum of their squares."""

    @torch.no_grad()
    def weigh(self, gradient: Float[Tensor, " weights"]) -> Float[Tensor, ""]:
        """Take an update's gradient, and return the share of its step to go, in [0, 1].

        That is the mean agreement less one standard error of it; 0 where it is below 0.
        """
        length = gradient.norm()
        towards = torch.where(length > 0, gradient / length.clamp_min(1e-30), 0.0)
        agreement, met = towards @ self.last, (self.last.any() & (length > 0)).to(gradient)
        fresh = (1 - _MEMORY) * met
        kept = torch.where(met > 0, _MEMORY, 1.0)
        self.mean.mul_(kept).add_(fresh * agreement)
        self.square.mul_(kept).add_(fresh * agreement.square())
        self.known.mul_(kept).add_(fresh)
        self.known_square.mul_(kept.square()).add_(fresh.square())
        self.last.copy_(torch.where(length > 0, towards, self.last))
        share = self.known.clamp_min(1e-30)
        mean = self.mean / share
        deviation = (self.square / share - mean.square()).clamp_min(_SPREAD**2).sqrt()
        error = deviation * self.known_square.sqrt() / share
        return torch.where(self.known > 0, mean - error, 0.0).clamp(0, 1)
