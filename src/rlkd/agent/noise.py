"""Exploration noise that similar instances share."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rlkd.agent.state import STATE_SIZE


def draw_field(generator: torch.Generator, device: torch.device) -> Float[Tensor, " coefficient"]:
    """Draw a random linear field over states, which similar instances share."""
    return torch.randn(STATE_SIZE + 1, generator=generator, device=device)


def coherent_noise(
    state: Float[Tensor, "*rows features"],
    field: Float[Tensor, " coefficient"],
    generator: torch.Generator,
    *,
    share: float,
) -> Float[Tensor, "*rows"]:
    """Draw N(0, 1) for each row; `share` of its variance is a random linear field of the state.

    Independent noise averages out over the instances of a reward, which then says little about any
    action. With one field for all of them similar instances move together. Each row alone is
    N(0, 1) for any share, so PPO's ratio of one instance does not change.

    Args:
        state: of each row; the field is one of the paper's features alone.
        field: from `draw_field`, one for all rows that share a reward.
        generator: of the independent part, on the state's device.
        share: in [0, 1]; 0 is independent noise.

    Source: after Raffin et al., "Smooth Exploration for Robotic Reinforcement Learning" (CoRL
    2021), whose noise is a function of the state drawn anew every few steps.
    """
    own = torch.randn(state.shape[:-1], generator=generator, device=state.device)
    paper = state[..., :STATE_SIZE]
    inputs = torch.cat((torch.ones_like(state[..., :1]), 2 * paper - 1), dim=-1)
    common = F.normalize(inputs, dim=-1) @ field
    return math.sqrt(share) * common + math.sqrt(1 - share) * own
