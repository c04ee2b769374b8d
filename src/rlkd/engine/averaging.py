"""The moving average of a student's weights."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rlkd.errors import UserError, one_line


class MovingAverage(nn.Module):
    """An exponential moving average of a network's weights and of its batch norms' statistics.

    It is what `torch.optim.swa_utils.AveragedModel` makes with `get_ema_multi_avg_fn` and
    `use_buffers=True`, without waiting for the device to say whether it has begun. Buffers that are
    whole numbers, not finite or not stored, as masks are, are those of the network.

    Args:
        network: in the form that it trains in; copied, with no hooks on it yet.
        decay: the share of the average that a step leaves, in (0, 1).

    Raises:
        UserError: if the network cannot be copied.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992);
    Tarvainen and Valpola, "Mean teachers are better role models" (NeurIPS 2017).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        try:
            copied = copy.deepcopy(network)
        except Exception as error:  # whatever a network's own code raises
            raise UserError(
                f"trainer.ema copies the student, and {type(network).__name__} cannot be copied "
                f"({one_line(error)}): leave trainer.ema at null"
            ) from error
        self.network = copied.requires_grad_(False).eval()
        stored = self.network.state_dict()
        self._merged = [
            each.is_floating_point() and name in stored and bool(each.isfinite().all())
            for name, each in self.network.named_buffers()
        ]
        self._merge = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def reshape(self, network: nn.Module) -> None:
        """Give buffers the shapes that those of the network have got, as at its first call."""
        for own, new in zip(self.network.buffers(), network.buffers(), strict=True):
            if own.shape != new.shape:
                own.resize_(new.shape).copy_(new)

    @torch.no_grad()
    def update(self, network: nn.Module, *, first: bool) -> None:
        """Let the average follow a step of the network.

        Args:
            network: after the step.
            first: whether it is the first step, whose weights the average begins with.
        """
        parameters = len(list(network.parameters()))
        fractions: list[tuple[Tensor, Tensor]] = []
        pairs = zip(_held(self.network), _held(network), strict=True)
        for (own, new), merged in zip(pairs, [True] * parameters + self._merged, strict=True):
            if first or not merged:
                own.copy_(new)
            else:
                fractions.append((own, new))
        if fractions:
            self._merge([own for own, _ in fractions], [new for _, new in fractions], 0)


def _held(network: nn.Module) -> list[Tensor]:
    return [each.detach() for each in (*network.parameters(), *network.buffers())]
