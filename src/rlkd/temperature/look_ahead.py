"""What each instance's temperature does to a held-out loss, one step ahead and to first order."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlkd.errors import UserError
from rlkd.types import Temperatures

HeldOut = Literal["cross_entropy", "soft_error"]


class Gains(NamedTuple):
    """What an update of learning rate 1 would take off the held-out loss, by instance."""

    gain: Float[Tensor, " batch"]
    """U_i(T_i); above 0 where the instance's term lowers the held-out loss."""
    size: Float[Tensor, " batch"]
    """Length of the gradient of the instance's term by its logits."""


TemperaturesOf = Callable[[Float[Tensor, "batch classes"]], Temperatures]
"""The student's logits of a batch to its temperatures, with the gradient that they pass on."""
GainOf = Callable[[TemperaturesOf], Gains]
"""Temperatures to what each instance of the coming batch brings at them."""


def held_out_loss(
    logits: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"], kind: HeldOut
) -> Float[Tensor, ""]:
    """Return what a look-ahead is held out against, the mean over instances.

    Args:
        logits: the student's, of images that it does not train on.
        target: their classes.
        kind: `cross_entropy`, in nats, or `soft_error`: sigmoid of the likeliest wrong logit minus
            the right one, in (0, 1), which does not reward larger logits without end.

    Raises:
        UserError: for another kind.
    """
    check_held_out(kind)
    if kind == "cross_entropy":
        return F.cross_entropy(logits.float(), target)
    right = logits.gather(1, target[:, None])
    wrong = logits.scatter(1, target[:, None], -torch.inf).amax(dim=1, keepdim=True)
    return torch.sigmoid((wrong - right).float()).mean()


def check_held_out(kind: object) -> None:
    """Refuse what is no loss to hold out against.

    Raises:
        UserError: if it is none of `HeldOut`.
    """
    if kind not in get_args(HeldOut):
        raise UserError(f"held_out={kind}: choose one of {', '.join(get_args(HeldOut))}")


def gains(
    loss: Callable[[Float[Tensor, "batch classes"]], Float[Tensor, ""]],
    logits: Float[Tensor, "batch classes"],
    moving: Float[Tensor, "batch classes"],
) -> Gains:
    """Return U_i = <dL/dz_i, z'_i>, the share of each instance in the fall of the held-out loss.

    An update by SGD at rate eta on L, the mean over the batch, lowers the held-out loss by
    eta sum_i U_i, to first order: it is the sum over instances exactly.

    Args:
        loss: L, of the student's logits.
        logits: the student's, z.
        moving: z', see `response`.
    """
    leaf = logits.detach().float().requires_grad_()
    with torch.enable_grad(), torch.autocast(leaf.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    return Gains((gradient * moving).sum(dim=1), gradient.norm(dim=1))
