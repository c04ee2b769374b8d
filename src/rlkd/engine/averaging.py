"""The moving average of a student's weights."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage(nn.Module):
    """An exponential moving average of a network's weights and of its batch norms' statistics.

    It is what `torch.optim.swa_utils.AveragedModel` makes with `get_ema_multi_avg_fn` and
    `use_buffers=True`, without waiting for the device to say whether it has begun. Whole numbers
    among the buffers are those of the network.

    Args:
        network: in the form that it trains in; copied, with no hooks on it yet.
        decay: the share of the average that a step leaves, in (0, 1).

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992);
    Tarvainen and Valpola, "Mean teachers are better role models" (NeurIPS 2017).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._merge = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, network: nn.Module, *, first: bool) -> None:
        """Let the average follow a step of the network.

        Args:
            network: after the step.
            first: whether it is the first step, whose weights the average begins with.
        """
        fractions: list[tuple[Tensor, Tensor]] = []
        for own, new in zip(_held(self.network), _held(network), strict=True):
            if first or not own.is_floating_point():
                own.copy_(new)
            else:
                fractions.append((own, new))
        if fractions:
            self._merge([own for own, _ in fractions], [new for _, new in fractions], 0)


def _held(network: nn.Module) -> list[Tensor]:
    return [each.detach() for each in (*network.parameters(), *network.buffers())]
