"""Returns and advantages of whole trajectories at once."""

import torch
from jaxtyping import Float
from torch import Tensor

_AT_ONCE = 256
"""Steps whose sums are one product of matrices."""


def discounted_sum(
    values: Float[Tensor, "trajectory step"], discount: float
) -> Float[Tensor, "trajectory step"]:
    """Return sum_{j >= i} discount^(j - i) * values[j] for every step i.

    Steps beyond a trajectory's end must hold 0. Memory grows with the number of steps, not with its
    square.
    """
    if discount == 0:
        return values
    step = torch.arange(min(values.shape[1], _AT_ONCE), device=values.device)
    lag = step[:, None] - step[None, :]  # (from, to): how far `from` lies after `to`
    weight = torch.where(lag >= 0, discount ** lag.clamp_min(0).to(values.dtype), 0.0).to(values)
    blocks, after = list[Tensor](), torch.zeros_like(values[:, 0])
    for block in reversed(values.split(_AT_ONCE, dim=1)):
        length = block.shape[1]
        ahead = discount ** (length - step[:length]).to(values.dtype)
        found = block @ weight[:length, :length] + after[:, None] * ahead
        blocks.append(found)
        after = found[:, 0]
    return torch.cat(blocks[::-1], dim=1)


def generalised_advantage(
    reward: Float[Tensor, "trajectory step"],
    value: Float[Tensor, "trajectory step"],
    mask: Float[Tensor, "trajectory step"],
    *,
    discount: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "trajectory step"], Float[Tensor, "trajectory step"]]:
    r"""Return the advantages and the critic's targets (advantage + value), 0 outside the mask.

    delta_i = r_i + discount * V_{i+1} - V_i and A_i = sum_l (discount * lambda)^l delta_{i+l};
    every trajectory ends after its last step. With discount = lambda = 0 this is the bandit
    form A_i = r_i - V_i: instances of one batch do not follow from one another.

    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation" (ICLR 2016), equation 16.
    """
    value = value * mask
    next_value = torch.cat((value[:, 1:], torch.zeros_like(value[:, :1])), dim=1)
    delta = (reward + discount * next_value - value) * mask
    advantage = discounted_sum(delta, discount * gae_lambda) * mask
    return advantage, advantage + value


def standardise(
    values: Float[Tensor, "trajectory step"], mask: Float[Tensor, "trajectory step"]
) -> Float[Tensor, "trajectory step"]:
    """Bring masked values to mean 0 and standard deviation 1; all equal ones become 0."""
    count = mask.sum().clamp_min(1)
    centred = (values - (values * mask).sum() / count) * mask
    std = (centred.square().sum() / count).sqrt()
    return torch.where(std > 1e-5 * values.abs().amax(), centred / std.clamp_min(1e-30), 0.0)
