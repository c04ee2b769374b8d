"""Scoring a student for a reward: without a trace, on a probe or on the batch."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.models.eval_mode import frozen_statistics
from rlkd.temperature import TemperatureSource

_Probe = TypeVar("_Probe")


@contextmanager
def scoring(network: nn.Module) -> Generator[None]:
    """Call a network for a score: without gradient, with the weights and statistics of this moment.

    In training mode batch norms use the batch's own statistics: the running ones lag behind the
    weights and depend on which batches came last, which is noise to a reward.
    """
    # Autocast keeps the casts of weights it has seen, and would score those of before the update;
    # those made here carry no gradient, and would take it from a later pass.
    torch.clear_autocast_cache()
    with torch.no_grad(), frozen_statistics(network):
        yield
    torch.clear_autocast_cache()


def probe_for(source: TemperatureSource | None, probe: _Probe | None) -> _Probe | None:
    """Return the probe if the source is measured on one, so that before and after are of one set.

    Args:
        source: sets the temperatures; None where the student trains alone.
        probe: images held out of training, in whatever form the loop has them.

    Raises:
        UserError: if the source needs a probe and there is none.
    """
    if source is None or not source.needs_probe:
        return None
    if probe is None:
        raise UserError(
            f"{type(source).__name__} measures on images held out of training, and there are none: "
            "give probe.size=512, or in a loop of your own probe=(images, targets)"
        )
    return probe


def scored_logits(
    network: nn.Module, image: Float[Tensor, "batch c h w"]
) -> Float[Tensor, "batch classes"]:
    """Return the logits that a reward is measured on, see `scoring`."""
    with scoring(network):
        return network(image).float()
