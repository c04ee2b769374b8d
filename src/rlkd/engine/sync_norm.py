"""Batch norms whose statistics are those of all ranks' rows together."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.nn.functional import (
    all_reduce,  # pyright: ignore[reportUnknownVariableType]
)
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from rlkd import ranks
from rlkd.errors import UserError


class _CpuSyncBatchNorm(_BatchNorm):
    """What `torch.nn.SyncBatchNorm` is, which knows no CPU.

    Each rank gives as many values; with one rank it is a plain batch norm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Float[Tensor, "batch channels *size"]) -> Tensor:
        """Normalise by the mean and the variance over all ranks."""
        world = ranks.here().world
        if world == 1 or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        over = [0, *range(2, input.dim())]
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        mean = cast(Tensor, all_reduce(values.mean(dim=over))) / world
        shape = (1, -1, *(1 for _ in over[1:]))
        centred = values - mean.view(shape)
        variance = cast(Tensor, all_reduce(centred.square().mean(dim=over))) / world
        self._follow(mean.detach(), variance.detach(), world * input.numel() // input.shape[1])
        normal = (centred * torch.rsqrt(variance + self.eps).view(shape)).to(input.dtype)
        if not self.affine:
            return normal
        return normal * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        # Off while a student is scored, see measure.frozen_statistics.
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var), share)


class _ThenActivated(nn.Module):
    """What timm's norms do besides: dropping, and the activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, drop and activate."""
        return self.act(self.drop(super().forward(input)))


class _CpuSyncBatchNormAct(_ThenActivated, _CpuSyncBatchNorm):
    pass


class _SyncBatchNormAct(_ThenActivated, nn.SyncBatchNorm):
    pass


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a network whose batch norms see all ranks' rows; names and weights stay.

    Args:
        network: is changed; where it is itself a batch norm, what is returned stands for it.
        device: that it will train on: `torch.nn.SyncBatchNorm` serves on a GPU.

    Raises:
        UserError: if it has a norm of a kind of its own.
    """
    on_gpu = device.type == "cuda"
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _converted(child, on_gpu=on_gpu))
    return _converted(network, on_gpu=on_gpu) if isinstance(network, _BatchNorm) else network


def _converted(norm: _BatchNorm, *, on_gpu: bool) -> _BatchNorm:
    parts = dict(norm.named_children())
    if type(norm).forward is not _BatchNorm.forward and parts.keys() != {"drop", "act"}:
        raise UserError(
            f"trainer.sync_batch_norm=true does not know what {type(norm).__name__} does: give "
            "the student plain batch norms, or leave it at false"
        )
    kind = nn.SyncBatchNorm if on_gpu else _CpuSyncBatchNorm
    if parts:
        kind = _SyncBatchNormAct if on_gpu else _CpuSyncBatchNormAct
    made = kind(
        norm.num_features,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
    )
    # The very tensors, so that an optimiser or a tie that knows them still does.
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for name in (*tensors, *parts):
        setattr(made, name, getattr(norm, name))
    made.training = norm.training
    return made
