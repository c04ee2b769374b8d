"""Tensors that a training run should not meet: what losses, sources and agents are fed."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from random import Random
from typing import Any

import torch
from torch import Tensor

from rlkd.checks import values_unchecked
from rlkd.types import IGNORED, Temperatures

FLOATS = (torch.float32, torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = (1.0, 1.0, 1.0, 10.0, 0.0, 1e-3, 1e3, 1e4, 1e30, 3e38, 1e-40)
BAD = (math.nan, math.inf, -math.inf, 1e30, -1e30, 3e38, 65504.0, 1e-45, -0.0)
NUMBERS: tuple[Any, ...] = (
    *(
        0,
        -1,
        1,
        2,
        3,
        0.5,
        2.5,
        -0.5,
        1e-9,
        1e-30,
        1e30,
        1e308,
        math.nan,
        math.inf,
        -math.inf,
        -0.0,
    ),
    *(True, False, None, "x", "", "2", [1], [], (), {}, 2**31, 2**63, 10**30, 1j, b"1"),
)


def generator(draw: Random) -> torch.Generator:
    """Return a generator of torch that the input's own decides on."""
    return torch.Generator().manual_seed(draw.getrandbits(62))


def logits(draw: Random, rows: int, classes: int, *, bad: float = 0.3) -> Tensor:
    """Return logits, in some precision, of some size.

    Args:
        draw: decides.
        rows: of the batch.
        classes: of the set.
        bad: how often some values are put in that are not finite, or enormous.
    """
    made = torch.randn(rows, classes, generator=generator(draw)) * draw.choice(SIZES)
    if draw.random() < bad and made.numel():
        for _ in range(draw.choice((1, 1, 2, rows))):
            row = draw.randrange(rows)
            where: Any = (row, draw.randrange(classes)) if draw.random() < 0.7 else row
            made[where] = draw.choice(BAD)
    return made.to(draw.choice(FLOATS))


def odd(draw: Random, given: Tensor) -> Tensor:
    """Return a tensor of another shape, type or layout than asked for."""
    what = draw.randrange(12)
    if what == 0:
        return given[:, :-1]
    if what == 1:
        return given[:-1]
    if what == 2:
        return given[..., None]
    if what == 3:
        return given.flatten()
    if what == 4:
        return given.to(torch.complex64)
    if what == 5:
        return (
            given.nan_to_num(0, 1, 1)
            .clamp(-9, 9)
            .to(draw.choice((torch.int64, torch.bool, torch.uint8)))
        )
    if what == 6:
        return given[:0]
    if what == 7:
        return given[:, :0]
    if what == 8:
        return given.to_sparse()
    if what == 9:
        return given.T
    if what == 10:
        return given.mT.contiguous().mT
    return given[:1].expand_as(given)


def target(draw: Random, rows: int, classes: int) -> Tensor:
    """Return targets, most of them in order."""
    indices = torch.randint(max(classes, 1), (rows,), generator=generator(draw))
    kind = draw.random()
    if kind < 0.55:
        return indices
    spread = torch.rand(rows, classes, generator=generator(draw)).softmax(dim=1)
    if kind < 0.75:
        return spread
    if kind < 0.8 and rows:
        indices[draw.randrange(rows)] = draw.choice((IGNORED, -1, classes, 2**40, -(2**63)))
        return indices
    odd_ones = (
        indices.int(),
        indices.float(),
        indices[:, None],
        indices[:0],
        spread * 2,
        spread * math.nan,
        spread > 0.2,
        spread.half(),
        -spread,
        indices.double(),
    )
    return draw.choice(odd_ones)


def temperature(draw: Random, rows: int) -> float | Tensor | Temperatures:
    """Return a temperature in each of the forms that losses take; now and then none of them."""
    kind = draw.random()
    if kind < 0.3:
        return draw.choice(
            (4.0, 1.0, 0.05, 10.0, 1000.0, 1e-9, 0.0, -1.0, math.nan, math.inf, 1e30)
        )
    vector = 0.05 + 10 * torch.rand(rows, generator=generator(draw))
    if kind < 0.6:
        return vector
    if kind < 0.75:
        return Temperatures(vector, vector.flip(0))
    if kind < 0.9 and rows:
        vector[draw.randrange(rows)] = draw.choice((0.0, -1.0, math.nan, math.inf, 1e-45, 1e38))
        return vector
    return draw.choice((vector[:, None], vector[:0], vector.long(), vector.half(), vector.double()))


def moderate(*tensors: Any) -> bool:
    """Return whether floating numbers are such that what is computed of them must be finite."""
    for each in tensors:
        if isinstance(each, Temperatures):
            if not moderate(each.student, each.teacher):
                return False
        elif isinstance(each, Tensor):
            if each.layout is not torch.strided or (
                each.is_floating_point()
                and each.numel()
                and not bool((each.detach().abs() <= 1e4).all())
            ):
                return False
        elif isinstance(each, float) and not abs(each) <= 1e4:
            return False
    return True


def positive(given: float | Tensor | Temperatures) -> bool:
    """Return whether a temperature is one: 0.05 or more, everywhere."""
    if isinstance(given, Temperatures):
        return positive(given.student) and positive(given.teacher)
    return bool((torch.as_tensor(given) >= 0.0499).all())


def not_finite(held: Any, path: str = "") -> list[str]:
    """Return where in a state, however deep, a number is not finite."""
    if isinstance(held, Tensor):
        bad = held.is_floating_point() and not bool(held.isfinite().all())
        return [f"{path} {tuple(held.shape)}"] if bad else []
    if isinstance(held, dict):
        return [each for key, value in held.items() for each in not_finite(value, f"{path}.{key}")]
    if isinstance(held, list | tuple):
        return [each for at, value in enumerate(held) for each in not_finite(value, f"{path}.{at}")]
    return [path] if isinstance(held, float) and not math.isfinite(held) else []


def checked(draw: Random) -> tuple[bool, Callable[[], Any]]:
    """Draw whether values are checked, and what has it so."""
    checked = draw.random() < 0.5
    return checked, nullcontext if checked else values_unchecked


def batch(draw: Random, rows: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of student and teacher, and targets in order."""
    student, teacher = (logits(draw, rows, classes) for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=generator(draw))


def said(*values: Any) -> str:
    """Return what tensors are, in words."""
    words: list[str] = []
    for each in values:
        if isinstance(each, Tensor):
            finite = (
                ""
                if not each.is_floating_point()
                or each.layout is not torch.strided
                or each.isfinite().all()
                else " not finite"
            )
            words.append(f"{tuple(each.shape)} {str(each.dtype).removeprefix('torch.')}{finite}")
        elif isinstance(each, Temperatures):
            words.append(f"Temperatures{tuple(each.student.shape)}")
        else:
            words.append(repr(each))
    return ", ".join(words)
