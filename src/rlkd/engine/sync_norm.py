"""Batch norms whose statistics are those of all ranks' rows together."""

import sys

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from rlkd.errors import UserError

_DEVICES = ("cuda",)
"""Devices that `torch.nn.SyncBatchNorm` works on."""


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """Replace batch norms by `torch.nn.SyncBatchNorm`; names and weights stay.

    Args:
        network: changed in place; a network that is itself a batch norm is replaced.
        device: that it will train on.

    Raises:
        UserError: on a CPU, or if a batch norm has a forward pass of its own.
    """
    if device.type not in _DEVICES:
        raise UserError(
            "trainer.sync_batch_norm=true needs GPUs, since torch.nn.SyncBatchNorm has no CPU "
            "form: set it to false"
        )
    for norm in (each for each in network.modules() if isinstance(each, _BatchNorm)):
        if type(norm).forward.__module__.partition(".")[0] not in ("torch", "timm"):
            raise UserError(
                f"trainer.sync_batch_norm=true does not know what {type(norm).__name__} does: give "
                "the student plain batch norms, or set it to false"
            )
    # timm's own conversion keeps the activations that some of its norms hold.
    library = sys.modules.get("timm.layers", nn.SyncBatchNorm)
    return library.convert_sync_batchnorm(network)
