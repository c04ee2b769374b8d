"""Kind `numbers`: logits, targets, temperatures and arguments into every part that computes."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from rlkd import losses
from rlkd.exploration import Explorer
from rlkd.exploration.entropy import Bands
from rlkd.tasks.classification.evaluate import evaluate
from rlkd.types import Batch

from . import tensors
from .sources import agent, source
from .verdict import Case, FailedError, Place

LOSSES: dict[str, Callable[..., Tensor]] = {
    "kd": losses.kd,
    "dkd": losses.dkd,
    "dist": losses.dist,
    "mlkd": losses.mlkd,
    "nkd": losses.nkd,
    "rld": losses.rld,
    "ttm": losses.ttm,
    "wttm": losses.wttm,
    "cross_entropy": losses.cross_entropy,
    "supervised": losses.supervised,
    "supervised_views": losses.supervised_views,
}
TARGETED = frozenset({"dkd", "nkd", "rld"})
LABELS_ALONE = frozenset({"cross_entropy", "supervised", "supervised_views"})
ARGUMENTS = {
    "dkd": ("alpha", "beta"),
    "dist": ("beta", "gamma"),
    "nkd": ("gamma",),
    "rld": ("alpha", "beta"),
    "mlkd": ("instance_weight", "factors"),
}
FEATURE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "at": losses.at,
    "nst": losses.nst,
    "sp": losses.sp,
    "ft": losses.ft,
    "fitnet": losses.fitnet,
    "cc": losses.cc,
    "rkd": losses.rkd,
    "pkt": losses.pkt,
}
FLAT = frozenset({"cc", "rkd", "pkt"})


def prepare(shared: Path) -> None:
    """Leave nothing: numbers need no files."""


def make(draw: Random, place: Place) -> Case:
    """Draw a part and what it is fed."""
    part = draw.choice(
        (
            _loss,
            _loss,
            _feature_loss,
            source,
            source,
            agent,
            agent,
            agent,
            _explorer,
            _evaluator,
        )
    )
    return part(draw)


def _shape(draw: Random) -> tuple[int, int]:
    return draw.choice((6, 6, 6, 1, 2, 0)), draw.choice((5, 5, 5, 2, 1, 3))


def _loss(draw: Random) -> Case:
    name, (rows, classes), (checked, checks) = (
        draw.choice(list(LOSSES)),
        _shape(draw),
        tensors.checked(draw),
    )
    student, teacher = (tensors.logits(draw, rows, classes) for _ in range(2))
    target, given = tensors.target(draw, rows, classes), tensors.temperature(draw, rows)
    in_order = draw.random() < 0.8
    if not in_order:
        student, teacher = (
            tensors.odd(draw, each) if draw.random() < 0.6 and each.dim() == 2 else each
            for each in (student, teacher)
        )
    if not checked and target.dtype == torch.int64 and target.layout is torch.strided:
        columns = student.shape[-1] if student.dim() else 0
        target = target.clamp(0, max(columns - 1, 0))  # a run has checked its labels by then
    wanted = student.is_floating_point() and student.layout is torch.strided
    student = student.detach().requires_grad_(wanted)
    options: dict[str, Any] = {}
    if draw.random() < 0.15 and "reduction" in inspect.signature(LOSSES[name]).parameters:
        options["reduction"] = draw.choice(("none", "mean", "sum", "x", None, 5))
    if name in ARGUMENTS and draw.random() < 0.25:
        options[draw.choice(ARGUMENTS[name])] = draw.choice(tensors.NUMBERS)
    values: list[Any] = [student] if name in LABELS_ALONE else [student, teacher]
    values += [target] if name in TARGETED | LABELS_ALONE else []
    values += [] if name in LABELS_ALONE else [given]
    sane = tensors.moderate(*values, *options.values()) and (
        name in LABELS_ALONE or tensors.positive(given)
    )

    def act() -> str:
        with checks():
            loss = LOSSES[name](*values, **options)
            if loss.requires_grad and loss.numel():
                loss.sum().backward()
        if sane and rows and loss.numel():
            grad = student.grad
            if not loss.isfinite().all() or (grad is not None and not grad.isfinite().all()):
                raise FailedError(
                    "nonsense",
                    f"{name}: {loss}, gradient {grad}",
                    f"{name} not finite of moderate numbers",
                )
        if checked and loss.isnan().any() and rows:
            raise FailedError("nonsense", f"{name}: {loss}", f"{name} NaN of what was checked")
        return f"{loss.detach().flatten()[:4].tolist()}"

    return Case(f"loss {name} checked={checked} {options} {tensors.said(*values)}", act)


def _feature_loss(draw: Random) -> Case:
    name = draw.choice(list(FEATURE_LOSSES))
    rows = draw.choice((4, 4, 4, 1, 0))
    shapes: list[tuple[int, ...]] = [(rows, 6)] * 2 if name in FLAT else [(rows, 3, 4, 4)] * 2
    if draw.random() < 0.2 and name not in FLAT:
        shapes[0] = draw.choice(
            (
                (rows, 3, 2, 2),
                (rows, 5, 4, 4),
                (rows, 3, 0, 4),
                (rows, 3, 1, 1),
                (rows + 1, 3, 4, 4),
                (rows, 3),
            )
        )
    student, teacher = (
        tensors.logits(draw, each[0], int(torch.tensor(each[1:]).prod()), bad=0.2).reshape(each)
        for each in shapes
    )
    if draw.random() < 0.2:
        student, teacher = torch.zeros_like(student), teacher * draw.choice((0, 1))
    student = student.detach().requires_grad_()
    sane = tensors.moderate(student, teacher)

    def act() -> str:
        loss = FEATURE_LOSSES[name](student, teacher)
        loss.sum().backward()
        finite = student.grad is None or bool(student.grad.isfinite().all())
        if sane and student.numel() and not (loss.isfinite().all() and finite):
            raise FailedError(
                "nonsense",
                f"{name}: {loss}, gradient {student.grad}",
                f"{name} not finite of moderate numbers",
            )
        return f"{loss.detach()}"

    return Case(f"feature loss {name} {tensors.said(student, teacher)}", act)


def _explorer(draw: Random) -> Case:
    good: dict[str, Any] = {"selected": 0.2, "mixed": (0.1, 0.2), "partners": (0.4, 0.5)}
    bands, options = (
        dict(good),
        {
            "instances": 20,
            "num_classes": 5,
            "first_epoch": 1,
            "epochs": 3,
            "mix_weight": 0.7,
            "seed": 0,
        },
    )
    what = draw.choice(("bands", "options", "logits", "logits"))
    if what == "bands":
        key = draw.choice(list(good))
        number = partial(draw.choice, tensors.NUMBERS)
        bands[key] = number() if key == "selected" or draw.random() < 0.3 else (number(), number())
    elif what == "options":
        options[draw.choice(("first_epoch", "epochs", "mix_weight", "seed"))] = draw.choice(
            tensors.NUMBERS
        )
    batches = [tensors.batch(draw, 5, 5)[::2] for _ in range(4)]
    index = torch.arange(20).reshape(4, 5)

    def act() -> str:
        explorer = Explorer(bands=Bands(**bands), **options)
        for epoch in (1, 2):
            explorer.start_epoch(epoch)
            for rows, (student, target) in zip(index, batches, strict=True):
                image = torch.rand(5, 3, 2, 2)
                batch = Batch(image=image, target=target, index=rows)
                explored = explorer.explore(batch, lambda each: each)
                if not explored.batch.image.isfinite().all():
                    raise FailedError("nonsense", str(explored.batch.image), "explorer: images")
                explorer.observe(explored, student)
        if explorer.record.entropy.isinf().any() or int(explorer.selected.sum()) > 20:
            raise FailedError("nonsense", str(explorer.record.entropy), "explorer: entropy record")
        return f"{int(explorer.selected.sum())} selected"

    return Case(f"explorer {what} {bands} {options} {tensors.said(*batches[0])}", act)


def _evaluator(draw: Random) -> Case:
    rows, classes = draw.choice((6, 1, 0)), draw.choice((5, 2, 12))
    held = tensors.logits(draw, rows, classes, bad=0.7)
    target = torch.randint(classes, (rows,), generator=tensors.generator(draw))

    class Network(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return held[: len(image)]

    def act() -> str:
        batch = Batch(image=torch.zeros(rows, 1, 2, 2), target=target, index=torch.arange(rows))
        scores = evaluate(Network(), [batch], class_names=[str(each) for each in range(classes)])
        top5 = scores.top5 if classes > 5 else 1.0  # of five or fewer there is none
        if not 0 <= scores.top1 <= top5 <= 1:
            raise FailedError("nonsense", str(scores), "evaluator: accuracies")
        wrong = held.float().isnan().any(dim=1)
        if scores.top1 > 1 - float(wrong.float().mean()) + 1e-6:
            raise FailedError(
                "nonsense", f"{scores} of {held}", "evaluator: a row of NaN counts as right"
            )
        return str(scores)

    return Case(f"evaluator {tensors.said(held)}", act)
