"""Checks of logits and targets for losses and temperature sources, and masked classes.

Shapes are checked always. Values are checked where that costs no wait for a device, on the CPU, and
not in a training run's own steps: one bad row must not end a run, and `engine.module` keeps the
first step whose loss is not finite. Logits of -inf are masked classes, of probability 0.

A temperature source takes rows that a loss refuses: it gives them its base temperature and learns
nothing from them, see `usable_rows`.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd.arguments import LARGEST, SMALLEST
from rlkd.errors import InputError, notice
from rlkd.types import IGNORED

MASKED = -1e30
"""Stands in for -inf where a product with a probability of 0 is to be 0, in value and gradient."""

_DIVISIBLE = 1e31
"""Logits beyond it may be infinite in float32 once the lowest temperature, 1e-6, divides them."""

GREATEST = 1e15
"""Logits beyond it cannot be computed with: the square of a greater one leaves float32."""

_by_value = ContextVar("_by_value", default=True)


@contextmanager
def values_unchecked() -> Generator[None]:
    """Check shapes alone, as in the steps of a training run; a decorator too."""
    token = _by_value.set(False)
    try:
        yield
    finally:
        _by_value.reset(token)


def check_logits(
    student: Any,
    teacher: Any = None,
    target: Any = None,
    *,
    ignored: bool = True,
    finite: bool = True,
) -> None:
    """Refuse what a loss or a source would take for something else, or turn into NaN.

    Args:
        student: the student's logits, (batch, classes).
        teacher: the teacher's, of the same shape; None where they are not asked for.
        target: class indices, int64 of shape (batch,), in [0, classes) or `types.IGNORED`; or a
            distribution over classes a row, floating, (batch, classes); None where not asked for.
        ignored: whether a target may be `types.IGNORED`.
        finite: whether a row of logits that holds NaN, nothing but -inf, or a number above 1e31,
            which the lowest temperature would make infinite, is refused.

    Raises:
        InputError: a ValueError that says what was given and, for a value, in which row: NaN, too
            large a number, nothing but -inf, an index out of range, a target row that does not sum
            to 1.
    """
    _check_shape("student", student)
    if teacher is not None:
        _check_shape("teacher", teacher)
        if teacher.shape != student.shape:
            what = "classes" if len(teacher) == len(student) else "rows"
            raise InputError(
                f"the student's logits have shape {tuple(student.shape)} and the teacher's "
                f"{tuple(teacher.shape)}: give both networks' logits of the same {what}"
            )
        if finite:
            _check_values("teacher", teacher)
    if finite:
        _check_values("student", student)
    if target is not None:
        _check_target(target, student, ignored)


def check_temperature(temperature: Tensor) -> None:
    """Refuse temperatures that are no dense floating numbers, or not in [1e-6, 1e6].

    Raises:
        InputError: saying which row has what, where values are checked.
    """
    if temperature.layout is not torch.strided or not temperature.is_floating_point():
        raise InputError(
            f"the temperatures are {temperature.dtype}, {temperature.layout}: give a dense tensor "
            "of floating numbers"
        )
    if not (_by_value.get() and _on_host(temperature) and temperature.numel()):
        return
    values = temperature.detach()
    if float(values.amin()) >= SMALLEST and float(values.amax()) <= LARGEST:
        return
    row = int((~((values >= SMALLEST) & (values <= LARGEST))).nonzero()[0])
    raise InputError(
        f"row {row} has the temperature {float(values[row]):g}: give one from {SMALLEST:g} to "
        f"{LARGEST:g}"
    )


def usable_rows(*values: Float[Tensor, "batch _"]) -> Bool[Tensor, " batch"]:
    """Return which rows can be computed with: their greatest values are finite, within `GREATEST`.

    Where values are checked, the first row that is not gets a `Notice`.
    """
    found = [each.detach().amax(dim=1).abs() <= GREATEST for each in values]
    usable = found[0] if len(found) == 1 else torch.stack(found).all(dim=0)
    if _by_value.get() and _on_host(usable) and not bool(usable.all()):
        notice(
            "a row of the logits is not finite: it gets the base temperature, and the temperature "
            "source learns nothing from it"
        )
    return usable


def unmasked(
    logits: Float[Tensor, "batch classes"],
) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"] | int]:
    """Put each row's mean over its other classes in the place of -inf; count those classes.

    Where nothing is masked, which costs nothing to see on the CPU, the logits are returned.
    """
    if _on_host(logits) and float(logits.detach().sum()) > -math.inf:
        return logits, logits.shape[1]
    masked = logits == -torch.inf
    count = (~masked).sum(dim=1)
    mean = logits.masked_fill(masked, 0.0).sum(dim=1) / count
    return torch.where(masked, mean[:, None], logits), count


def spread(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Return each row's standard deviation over the classes that are not masked, of a sample."""
    filled, count = unmasked(logits)
    if isinstance(count, int):
        return filled.std(dim=1)
    # What was filled in adds nothing to the squares; it only counts in torch's divisor.
    return filled.std(dim=1) * ((logits.shape[1] - 1) / (count - 1).clamp_min(1)).sqrt()


def float32_or_better(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return float64 as it is and anything else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check_shape(role: str, logits: Any) -> None:
    if not isinstance(logits, Tensor):
        raise InputError(f"the {role}'s logits are a {type(logits).__name__}: give a tensor")
    if logits.dim() != 2 or not logits.is_floating_point() or logits.layout is not torch.strided:
        flat = "; logits.flatten(0, -2) makes an instance of every position"
        raise InputError(
            f"the {role}'s logits have shape {tuple(logits.shape)}, {logits.dtype}: give floating "
            f"ones of shape (batch, classes){flat if logits.dim() > 2 else ''}"
        )
    if not logits.shape[1]:
        raise InputError(f"the {role}'s logits are of no class: give at least one")


def _check_target(target: Any, logits: Tensor, ignored: bool) -> None:
    rows, classes = logits.shape
    if not isinstance(target, Tensor):
        raise InputError(
            f"the targets are a {type(target).__name__}: give a tensor, torch.as_tensor(targets)"
        )
    shape = tuple(target.shape)
    if shape == (rows,) and target.dtype == torch.int64:
        _check_indices(target, classes, ignored)
    elif shape == (rows, classes) and target.is_floating_point():
        _check_distributions(target)
    else:
        remedy = ""
        if shape == (rows, 1):
            remedy = "; target.squeeze(1) has their shape"
        elif shape == (rows,):
            remedy = "; target.long() makes such of them"
        elif shape == (rows, classes):
            remedy = "; target.float() makes such rows of one-hot ones"
        raise InputError(
            f"the targets have shape {shape}, {target.dtype}: give class indices, int64 of "
            f"shape ({rows},), or a distribution over classes a row, floating, of shape "
            f"({rows}, {classes}){remedy}"
        )


def _transformed(values: Tensor) -> bool:
    """Return whether a tensor is one inside vmap or another of torch.func's transforms."""
    return torch._C._functorch.is_functorch_wrapped_tensor(values)  # pyright: ignore


def _on_host(values: Tensor) -> bool:
    """Return whether values can be read without waiting for a device, or breaking a graph."""
    here = values.device.type == "cpu" and type(values) in (Tensor, torch.nn.Parameter)
    return here and not _transformed(values) and not torch.compiler.is_compiling()


def _check_values(role: str, logits: Tensor) -> None:
    if not (_by_value.get() and _on_host(logits) and logits.numel()):
        return
    greatest = logits.detach().amax(dim=1)
    low, high = greatest.aminmax()  # NaN where any row's is
    if float(low) > -math.inf and float(high) <= _DIVISIBLE:
        return
    held = enumerate(greatest.tolist())
    row, value = next((row, each) for row, each in held if not -math.inf < each <= _DIVISIBLE)
    what = "nothing but -inf" if value == -math.inf else f"{value:+g}".replace("+nan", "NaN")
    raise InputError(
        f"row {row} of the {role}'s logits has {what}: give logits of at most {_DIVISIBLE:g}, "
        "or -inf for classes that are masked"
    )


def _check_indices(target: Tensor, classes: int, ignored: bool) -> None:
    if not (_by_value.get() and _on_host(target) and target.numel()):
        return
    least, greatest = target.aminmax()
    if int(least) >= 0 and int(greatest) < classes:
        return
    outside = (target < 0) | (target >= classes)
    bad = (outside & (target != IGNORED) if ignored else outside).nonzero()
    if len(bad):
        raise InputError(
            f"row {int(bad[0])} has the target {int(target[bad[0]])}, and the logits are of "
            f"{classes} classes: give class indices from 0 to {classes - 1}"
        )


def _check_distributions(target: Tensor) -> None:
    if not (_by_value.get() and _on_host(target) and target.numel()):
        return
    total = target.detach().sum(dim=1)
    off = (total - 1).abs()
    if float(off.amax()) <= 0.01:  # half precision's rounding; false for NaN
        return
    row = int((~(off <= 0.01)).nonzero()[0])
    raise InputError(
        f"row {row} of the targets sums to {float(total[row]):g}, not to 1: give one distribution "
        "over classes a row; several labels of an instance (multi-hot) are none"
    )
