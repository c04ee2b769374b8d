"""Adam for networks so small that looking for a GPU takes longer than the descent."""

from collections.abc import Callable

import torch
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from rlkd import arguments


class Adam(torch.optim.Optimizer):
    """torch's fused Adam, without the question whether a GPU is capturing a graph.

    Where torch was built for a GPU and the machine has none, `torch.optim.Adam.step` takes half its
    time to ask. The agent is never part of a captured graph.

    Args:
        params: the weights.
        lr: the learning rate, above 0.

    Raises:
        UserError: for a rate that is not above 0.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015); torch's
    defaults.
    """

    def __init__(self, params: ParamsT, lr: float = 1e-3) -> None:
        arguments.number("lr", lr, above=0)
        # torch keeps the step counts of a group that says `fused` on its weights' device.
        super().__init__(params, {"lr": lr, "fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make a step by the gradients there are; a closure is not asked."""
        for group in self.param_groups:
            weights = [each for each in group["params"] if each.grad is not None]
            for each in weights:
                if not self.state[each]:
                    self.state[each] = {
                        "step": torch.zeros((), device=each.device),
                        "exp_avg": torch.zeros_like(each),
                        "exp_avg_sq": torch.zeros_like(each),
                    }
            held = [self.state[each] for each in weights]
            adam(
                weights,
                [each.grad for each in weights],
                [each["exp_avg"] for each in held],
                [each["exp_avg_sq"] for each in held],
                [],
                [each["step"] for each in held],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=group["lr"],
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
