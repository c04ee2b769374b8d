"""The teacher: a network that gives logits and nothing else."""

import hashlib
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.checks import float32_or_better
from rlkd.models.eval_mode import at_rest
from rlkd.models.folding import folded


class Teacher(nn.Module):
    """A frozen network: always in evaluation mode, without gradient, absent from checkpoints.

    It owns the network that it is given and freezes it. The network is not a registered submodule:
    its parameters are in no `parameters()`, no `state_dict()`, no optimiser, and a parent's
    `train()` or `requires_grad_()` does not reach it. `.to(...)`, of a parent too, does.

    Args:
        network: a classifier, its weights already loaded.
        dtype: the precision of weights and images, such as torch.bfloat16; kept when a parent is
            cast. None leaves the network as it is, and a parent's cast reaches it.
        fuse: whether batch norms, ReLUs and residual additions become part of the convolutions
            before them, see `folding.folded`. Hooks on its modules may then no longer fire.
        renormalise: what images are multiplied by and then added, a number a channel, shape
            (channels, 1, 1): for a teacher that wants another normalisation than the student.
        sha256: see `weights_sha256`, of the network as it is given, by which runs are known to have
            had the same teacher; None where nobody compares them.
        image_size: height and width in pixels that images are resized to (bilinearly, smoothed
            where they shrink); None for their own.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        dtype: torch.dtype | None = None,
        fuse: bool = False,
        renormalise: tuple[Tensor, Tensor] | None = None,
        sha256: str | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.dtype, self.sha256, self.image_size = dtype, sha256, image_size
        if fuse:
            network = folded(at_rest(network))
        # A tuple hides it from nn.Module, which registers every module among its attributes.
        self._unregistered = (at_rest(network).requires_grad_(False).to(dtype=dtype),)
        scale, shift = (None, None) if renormalise is None else renormalise
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        super().train(False)

    scale: Tensor | None
    shift: Tensor | None

    @property
    def network(self) -> nn.Module:
        """The frozen network."""
        return self._unregistered[0]

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode when the parent module changes its own."""
        return self

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits, in float32 or better."""
        with torch.no_grad():
            logits = self.network(self.seen(image))
        return float32_or_better(logits)

    def seen(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels high wide"]:
        """Return images as the network sees them: in its normalisation, size and precision."""
        if self.scale is not None and self.shift is not None:
            image = image * self.scale + self.shift
        if self.image_size is not None and image.shape[-2:] != self.image_size:
            image = F.interpolate(
                image, self.image_size, mode="bilinear", antialias=True, align_corners=False
            )
        return image.to(dtype=self.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Teacher":
        super()._apply(fn, recurse)
        self.network._apply(fn, recurse)
        if self.dtype is not None:
            self.network.to(dtype=self.dtype)
        return self


def weights_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's weights: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, held in sorted(network.state_dict().items()):
        if isinstance(held, Tensor):
            digest.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
            digest.update(held.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
