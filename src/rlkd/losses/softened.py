"""The only place where a temperature meets logits."""

import torch
from jaxtyping import Float
from torch import Tensor

from rlkd import arguments
from rlkd.checks import MASKED, check_temperature, float32_or_better
from rlkd.errors import InputError
from rlkd.types import Temperatures

Temperature = float | Tensor | Temperatures


def as_temperatures(temperature: Temperature, like: Float[Tensor, "batch classes"]) -> Temperatures:
    """Give every row of `like` its temperatures.

    Args:
        temperature: one number for all; a (batch,) tensor, the same for both networks; or both
            networks' own.
        like: logits.

    Raises:
        ValueError: for a tensor of another shape, or a temperature that is not in [1e-6, 1e6].
    """
    if isinstance(temperature, Temperatures):
        temperatures = temperature
    elif isinstance(temperature, Tensor):
        temperatures = Temperatures.same(temperature)
    else:
        arguments.number("temperature", temperature, least=arguments.SMALLEST)
        return Temperatures.constant(temperature, like=like)
    for vector in (temperatures.student, temperatures.teacher):
        if vector.shape != like.shape[:1]:
            raise InputError(
                f"a temperature of shape {tuple(vector.shape)} does not fit logits of shape "
                f"{tuple(like.shape)}: give one temperature a row, shape ({len(like)},)"
            )
        check_temperature(vector)
    return temperatures


def log_softened(
    logits: Float[Tensor, "batch classes"], temperature: Float[Tensor, " batch"]
) -> Float[Tensor, "batch classes"]:
    """Return log softmax(z_i / T_i) for every row i, in float32 or better.

    A masked class, of logit -inf, gets -1e30 / T: its probability is 0, and it adds 0 to a
    divergence where the teacher masks it, as in `torch.nn.functional.kl_div`; where the student
    alone does, a huge number in the place of infinity, whose gradient is finite.
    """
    logits = float32_or_better(logits)
    return torch.log_softmax(logits.clamp_min(MASKED) / temperature[:, None], dim=1)
