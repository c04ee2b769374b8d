"""Takes the logits out of what a network returns."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from rlkd.errors import UserError


def giving_logits(network: nn.Module, name: str, num_classes: int) -> nn.Module:
    """Make a network return its logits alone, without anything else that its code returns.

    A forward hook chooses them, so that modules and state dict keep their names. A tensor stays as
    it is. Of Hugging Face's outputs, torchvision's named tuples and dictionaries, `logits` is
    taken; of any other tuple or list the one tensor of shape (batch, classes).

    Args:
        network: is changed, and returned.
        name: what the user calls it, for messages.
        num_classes: columns of the logits.
    """
    network.register_forward_hook(partial(_choose, name=name, num_classes=num_classes))
    return network


def keep_hooks(made: nn.Module, origin: nn.Module) -> nn.Module:
    """Give a network that was made of another that one's forward hooks, and return it."""
    made._forward_hooks.update(origin._forward_hooks)  # pyright: ignore[reportPrivateUsage]
    return made


def check_logits(network: str, logits: Any, rows: int, num_classes: int) -> None:
    """Refuse what is no tensor of logits for these rows and classes.

    Args:
        network: its role, and its name where it has one, for messages.
        logits: what it returned.
        rows: of the batch that it was given.
        num_classes: of the data.

    Raises:
        UserError: if the shape is another.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != rows:
        raise UserError(
            f"the {network} returned {described(logits)} for {rows} images: return logits, "
            f"({rows}, {num_classes})"
        )
    if logits.shape[1] != num_classes:
        raise UserError(
            f"the {network} gives {logits.shape[1]} logits and the data have {num_classes} "
            "classes: make a network for these classes"
        )


def without_logits(
    logits: Float[Tensor, "batch classes"], *, tolerance: float = 1e-4
) -> str | None:
    """Return what outputs are that a softmax has gone over already; None where they are logits.

    Args:
        logits: what a network returned, two or more classes.
        tolerance: how far from 1 the sum of each row's probabilities may be.
    """
    values = logits.detach().double()
    for what, probability in (("probabilities", values), ("log-probabilities", values.exp())):
        sums = probability.sum(dim=1)
        within = bool(((probability >= 0) & (probability <= 1 + tolerance)).all())
        if values.shape[1] > 1 and within and bool(((sums - 1).abs() <= tolerance).all()):
            return what
    return None


def described(output: Any) -> str:
    """Return the types and shapes of what a network returned, in words."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    kind = type(output).__name__
    if isinstance(output, Mapping):
        held = cast(Mapping[Any, Any], output).items()
        return f"a {kind} of {', '.join(f'{key}: {_short(each)}' for key, each in held)}"
    if isinstance(output, tuple | list):
        held = cast(Sequence[Any], output)
        return f"a {kind} of {', '.join(map(_short, held)) or 'nothing'}"
    return f"a {kind}"


def _choose(
    module: nn.Module, arguments: tuple[Any, ...], output: Any, *, name: str, num_classes: int
) -> Tensor:
    if isinstance(output, Tensor):
        return output
    named = (
        cast(Mapping[Any, Any], output).get("logits")
        if isinstance(output, Mapping)
        else getattr(output, "logits", None)
    )
    if isinstance(named, Tensor):
        return named
    listed = cast(Sequence[Any], output) if isinstance(output, tuple | list) else ()
    fitting = [each for each in listed if _fits(each, num_classes)]
    if len(fitting) == 1:
        return fitting[0]
    found = "several tensors" if fitting else "no tensor"
    raise UserError(
        f"model '{name}' returned {described(output)}: {found} of shape (batch, {num_classes}) "
        "and nothing called logits; let a factory of your own return the logits alone"
    )


def _fits(value: Any, num_classes: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == num_classes


def _short(value: Any) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
