"""Learning-rate schedules that torch does not have."""

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rlkd import arguments


def warmup_multistep(
    optimizer: Optimizer,
    *,
    total_steps: int,
    warmup: float = 0.0,
    warmup_factor: float = 0.001,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
) -> LambdaLR:
    """Raise the rate linearly, then drop it at milestones; to be stepped once a step.

    Args:
        optimizer: whose rates are set.
        total_steps: of the whole run.
        warmup: the part of the steps in which the rate grows, in [0, 1].
        warmup_factor: what multiplies the rate in the first step, in (0, 1].
        milestones: parts of the steps after which the rate is multiplied by `gamma`, in [0, 1].
        gamma: above 0.

    Raises:
        ValueError: for a value out of range.
    """
    arguments.count("total_steps", total_steps)
    arguments.number("warmup", warmup, least=0, most=1)
    for each in milestones:
        arguments.number("milestones", each, least=0, most=1)
    arguments.number("warmup_factor", warmup_factor, above=0, most=1)
    arguments.number("gamma", gamma, above=0)
    rising = round(warmup * total_steps)
    drops = [round(each * total_steps) for each in milestones]

    def factor(step: int) -> float:
        grown = min(step / rising, 1.0) if rising else 1.0
        return (warmup_factor + (1 - warmup_factor) * grown) * gamma ** sum(
            step >= each for each in drops
        )

    return LambdaLR(optimizer, factor)
