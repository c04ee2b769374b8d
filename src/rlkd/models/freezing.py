"""Parts of a network that training leaves as they are, by the names of their parameters."""

from collections.abc import Collection
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from rlkd.errors import UserError


def freeze(network: nn.Module, patterns: Collection[str]) -> nn.Module:
    """Freeze the parameters whose names match, for good.

    They get no gradient, and no weight decay either. A batch norm whose weight and bias both
    match goes by its running statistics from now on and no longer updates them: what is frozen
    computes the same function for as long as it trains. Dropout is left as it is.

    Args:
        network: changed in place, in the mode that it trains in; nothing may call its `train()`
            later.
        patterns: of the shell, as `fnmatch` has them: `layer1.*` is all that begins so.

    Returns:
        The network.

    Raises:
        UserError: if one matches nothing, or nothing is left to train.
    """
    named = dict(network.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        found = [each for name, each in named.items() if fnmatchcase(name, pattern)]
        if not found:
            parts = dict.fromkeys(f"{name.partition('.')[0]}.*" for name in named)
            raise UserError(
                f"student.freeze={pattern} matches no parameter of {type(network).__name__}: give "
                f"patterns such as {', '.join(parts)}"
            )
        for each in found:
            each.requires_grad_(False)
    if not any(each.requires_grad for each in named.values()):
        raise UserError("student.freeze leaves no parameter to train: give fewer patterns")
    for name, module in network.named_modules():
        own = [f"{name}.{each}" for each in ("weight", "bias")]
        if isinstance(module, _BatchNorm) and all(
            any(fnmatchcase(each, pattern) for pattern in patterns) for each in own
        ):
            module.eval()
    return network
