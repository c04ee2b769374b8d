"""`torch.nn.SyncBatchNorm` on a CPU, which torch lacks: for ranks that are tested without GPUs."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

from torch import Tensor, nn
from torch.distributed.nn.functional import (
    all_reduce,  # pyright: ignore[reportUnknownVariableType]
)
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from rlkd import distributed
from rlkd.engine import sync_norm


class _CpuSyncBatchNorm(_BatchNorm):
    """Normalises by the mean and the variance over all ranks; each has as many values."""

    convert_sync_batchnorm = classmethod(nn.SyncBatchNorm.convert_sync_batchnorm.__func__)

    def __init__(self, *arguments: Any, bias: bool = True) -> None:
        super().__init__(*arguments[:5], bias=bias)

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2

    def forward(self, input: Tensor) -> Tensor:
        world = distributed.this_rank().world_size
        if world == 1 or not self.training:
            return super().forward(input)
        over, shape = [0, *range(2, input.dim())], (1, -1, *(1 for _ in range(2, input.dim())))
        mean = cast(Tensor, all_reduce(input.mean(dim=over))) / world
        centred = input - mean.view(shape)
        variance = cast(Tensor, all_reduce(centred.square().mean(dim=over))) / world
        if self.track_running_stats:
            count, momentum = world * input.numel() // input.shape[1], cast(float, self.momentum)
            self.get_buffer("num_batches_tracked").add_(1)
            self.get_buffer("running_mean").lerp_(mean.detach(), momentum)
            self.get_buffer("running_var").lerp_(variance.detach() * count / (count - 1), momentum)
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        return normal * self.weight.view(shape) + self.bias.view(shape)


@contextmanager
def on_cpu() -> Generator[None]:
    """Let `sync_norm.synchronised` work on a CPU."""
    with (
        patch.object(sync_norm, "_DEVICES", ("cpu",)),
        patch.object(nn, "SyncBatchNorm", _CpuSyncBatchNorm),
    ):
        yield
