"""Kind `numbers`: logits, targets, temperatures and arguments into every part that computes."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from rlkd import losses, temperature
from rlkd.agent import RandomTemperature, TemperatureAgent
from rlkd.checks import values_unchecked
from rlkd.errors import InputError
from rlkd.exploration import Explorer
from rlkd.exploration.entropy import Bands
from rlkd.temperature import TemperatureSource
from rlkd.training.measure import evaluate
from rlkd.types import Batch, Temperatures

from . import tensors
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
SOURCES: dict[str, tuple[Callable[..., TemperatureSource], dict[str, Any]]] = {
    "constant": (temperature.ConstantTemperature, {"temperature": 4.0}),
    "scheduled": (temperature.ScheduledTemperature, {"epochs": 10, "start": 7.0, "end": 1.0}),
    "ctkd": (
        temperature.GlobalCTKD,
        {"lowest": 1.0, "span": 20.0, "initial_raw": 1.0, "lambda_epochs": 10},
    ),
    "ctkd_instance": (
        temperature.InstanceCTKD,
        {"num_classes": 5, "hidden": 8, "lowest": 1.0, "span": 20.0, "lambda_epochs": 10},
    ),
    "standardised": (temperature.LogitStandardisation, {"base_temperature": 2.0}),
    "normkd": (temperature.NormKD, {"base_temperature": 2.0}),
    "dtkd": (temperature.DTKD, {"base_temperature": 4.0}),
    "max_logit": (temperature.MaxLogitTemperature, {"ratio": 3.3}),
    "entropy": (temperature.EntropyTemperature, {"lowest": 1.0, "highest": 10.0}),
    "confidence": (temperature.ConfidenceTemperature, {"lowest": 1.0, "highest": 10.0}),
    "random": (
        RandomTemperature,
        {
            "base_temperature": 4.0,
            "max_temperature": 10.0,
            "initial_std": 0.5,
            "warmup_epochs": 0,
            "seed": 0,
        },
    ),
}
AGENT: dict[str, tuple[Any, ...]] = {
    "base_temperature": (4.0,),
    "max_temperature": (10.0,),
    "initial_std": (0.5,),
    "hidden": (8,),
    "reward_source": ("next_batch", "same_batch", "probe"),
    "metric": ("accuracy", "loss"),
    "probe_interval": (1, 2),
    "gate": (True, False),
    "gate_epochs": (80.0, 1.0),
    "max_instances": (None, 3),
    "update_interval": (1, 2, 3),
    "warmup_epochs": (0, 1),
    "seed": (0,),
    "calibration": ("additive", "recurrent", "none"),
    "state_updater": (True, False),
    "calibration_buffer": (64, 2048),
    "coherence": (0.0, 0.5),
    "clip": (0.2,),
    "epochs": (1, 2),
    "minibatches": (1, 2),
    "discount": (0.0, 0.99),
    "gae_lambda": (0.0, 0.95),
    "actor_learning_rate": (1e-4,),
    "critic_learning_rate": (1e-3,),
    "max_grad_norm": (2.0,),
    "entropy_bonus": (0.0, 0.01),
}


def prepare(shared: Path) -> None:
    """Leave nothing: numbers need no files."""


def make(draw: Random, place: Place) -> Case:
    """Draw a part and what it is fed."""
    part = draw.choice(
        (
            _loss,
            _loss,
            _feature_loss,
            _source,
            _source,
            _agent,
            _agent,
            _agent,
            _explorer,
            _evaluator,
        )
    )
    return part(draw)


def _checked(draw: Random) -> tuple[bool, Callable[[], Any]]:
    checked = draw.random() < 0.5
    return checked, nullcontext if checked else values_unchecked


def _shape(draw: Random) -> tuple[int, int]:
    return draw.choice((6, 6, 6, 1, 2, 0)), draw.choice((5, 5, 5, 2, 1, 3))


def _loss(draw: Random) -> Case:
    name, (rows, classes), (checked, checks) = (
        draw.choice(list(LOSSES)),
        _shape(draw),
        _checked(draw),
    )
    student, teacher = (tensors.logits(draw, rows, classes) for _ in range(2))
    target, given = tensors.target(draw, rows, classes), tensors.temperature(draw, rows)
    in_order = draw.random() < 0.8
    if not in_order:
        student, teacher = (
            tensors.odd(draw, each) if draw.random() < 0.6 and each.dim() == 2 else each
            for each in (student, teacher)
        )
    wanted = student.is_floating_point() and student.layout is torch.strided
    student = student.detach().requires_grad_(wanted)
    options: dict[str, Any] = {}
    if draw.random() < 0.15:
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
        if sane and (rows or not checked) and loss.numel():
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

    return Case(f"loss {name} checked={checked} {options} {_said(*values)}", act)


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

    return Case(f"feature loss {name} {_said(student, teacher)}", act)


def _source(draw: Random) -> Case:
    name = draw.choice(list(SOURCES))
    built, defaults = SOURCES[name]
    options, odd = dict(defaults), draw.random() < 0.25
    if odd:
        options[draw.choice(list(options))] = draw.choice(tensors.NUMBERS)
    _, checks = _checked(draw)
    classes = 5 if name == "ctkd_instance" else draw.choice((5, 2, 1))
    batches = [_batch(draw, draw.choice((4, 1)), classes) for _ in range(3)]
    epochs = [draw.choice((1, 2, 11, 240)) for _ in batches]
    sane = not odd

    def act() -> str:
        source = built(**options)
        said: list[str] = []
        for (student, teacher, target), epoch in zip(batches, epochs, strict=True):
            source.start_epoch(epoch)
            with checks():
                found = source(student, teacher, target)
            _check_temperatures(found, name, student, teacher, sane=sane)
            said.append(f"{found.student.flatten()[:2].tolist()}")
        bad = tensors.not_finite(source.state_dict())
        if bad:
            raise FailedError("nonsense", f"{name}: {bad}", f"{name}: state not finite")
        return " ".join(said)

    return Case(f"source {name} {options if odd else ''} {_said(*batches[0])}", act)


def _batch(draw: Random, rows: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = (tensors.logits(draw, rows, classes) for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=tensors.generator(draw))


def _check_temperatures(
    found: Temperatures,
    name: str,
    student: Tensor,
    teacher: Tensor,
    *,
    sane: bool,
    highest: float = 1e30,
) -> None:
    good = (
        (student.float().isfinite() & teacher.float().isfinite()).all(dim=1)
        if student.dim() == 2
        else torch.tensor(True)
    )
    for role, each in (("student", found.student), ("teacher", found.teacher)):
        if each.shape != (len(student),):
            raise FailedError(
                "nonsense", f"{name}: {tuple(each.shape)}", f"{name}: temperatures' shape"
            )
        if not each.isfinite().all():
            which = "good rows too" if not each[good].isfinite().all() else "bad rows"
            raise FailedError(
                "nonsense", f"{name} {role}: {each}", f"{name}: temperatures not finite, {which}"
            )
        if not ((each >= 0.0499) & (each <= highest)).all():
            raise FailedError(
                "nonsense",
                f"{name} {role}: {each}",
                f"{name}: temperatures out of range{'' if sane else ', of odd arguments'}",
            )


def _agent(draw: Random) -> Case:
    options = {key: draw.choice(values) for key, values in AGENT.items()}
    odd = draw.random() < 0.3
    if odd:
        options[draw.choice(list(options))] = draw.choice(tensors.NUMBERS)
        if options["hidden"] not in (8, 0, -1, 2, 3):
            options["hidden"] = draw.choice((0, -1, 2.5, "x", None))
    _, checks = _checked(draw)
    rows, classes = draw.choice((6, 4, 1)), draw.choice((5, 2))
    quiet = draw.random() < 0.15  # every row is bad, always
    batches = [_batch(draw, rows, classes) for _ in range(10)]
    if quiet:
        batches = [(each[0] * float("nan"), *each[1:]) for each in batches]
    answers = [
        draw.choice((0.5, 0.6, *tensors.BAD)) if draw.random() < 0.3 else draw.random()
        for _ in batches
    ]
    masks = [
        torch.rand(rows, generator=tensors.generator(draw)) < 0.5 if draw.random() < 0.3 else None
        for _ in batches
    ]
    saved = draw.randrange(10)

    def act() -> str:
        agent = TemperatureAgent(**options)
        if isinstance(options["max_temperature"], float | int):
            highest = float(options["max_temperature"])
        refused = 0
        said = ""
        for number, ((student, teacher, target), answer, mask) in enumerate(
            zip(batches, answers, masks, strict=True)
        ):
            agent.start_epoch(1 + number // 3)
            agent.train(number % 4 < 3)
            with checks():
                try:
                    found = agent(student, teacher, target, learn_from=mask)
                except InputError:
                    refused += 1
                    continue
            _check_temperatures(found, "agent", student, teacher, sane=not odd, highest=highest)
            if agent.observation_due:
                agent.observe(torch.tensor(answer))
            bad = [name for name, each in agent.named_parameters() if not each.isfinite().all()]
            if bad:
                raise FailedError("nonsense", f"batch {number}: {bad}", "agent: weights not finite")
            said = f"T {found.student[:3].tolist()}"
            if number == saved:
                other = TemperatureAgent(**options)
                other.load_state_dict(agent.state_dict())
                agent = other
        bad = tensors.not_finite(agent.state_dict())
        if bad:
            raise FailedError(
                "nonsense", f"{bad}", f"agent: state not finite: {bad[0].split()[0].split('.')[-1]}"
            )
        return f"{said}, {refused} batches refused, {agent.updates} updates"

    return Case(f"agent {options} all rows bad={quiet} {_said(*batches[0])}", act)


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
    batches = [_batch(draw, 5, 5)[::2] for _ in range(4)]
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

    return Case(f"explorer {what} {bands} {options} {_said(*batches[0])}", act)


def _evaluator(draw: Random) -> Case:
    rows, classes = draw.choice((6, 1, 0)), draw.choice((5, 2, 12))
    held = tensors.logits(draw, rows, classes, bad=0.7)
    target = torch.randint(classes, (rows,), generator=tensors.generator(draw))

    class Network(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return held[: len(image)]

    def act() -> str:
        batch = Batch(image=torch.zeros(rows, 1, 2, 2), target=target, index=torch.arange(rows))
        scores = evaluate(Network(), [batch], num_classes=classes)
        if not (0 <= scores.top1 <= scores.top5 <= 1):
            raise FailedError("nonsense", str(scores), "evaluator: accuracies")
        wrong = held.float().isnan().any(dim=1)
        if scores.top1 > 1 - float(wrong.float().mean()) + 1e-6:
            raise FailedError(
                "nonsense", f"{scores} of {held}", "evaluator: a row of NaN counts as right"
            )
        return str(scores)

    return Case(f"evaluator {_said(held)}", act)


def _said(*values: Any) -> str:
    said: list[str] = []
    for each in values:
        if isinstance(each, Tensor):
            finite = (
                ""
                if not each.is_floating_point()
                or each.layout is not torch.strided
                or each.isfinite().all()
                else " not finite"
            )
            said.append(f"{tuple(each.shape)} {str(each.dtype).removeprefix('torch.')}{finite}")
        elif isinstance(each, Temperatures):
            said.append(f"Temperatures{tuple(each.student.shape)}")
        else:
            said.append(repr(each))
    return ", ".join(said)


def _poisoned(variant: str, value: float, draw: Random, place: Place) -> Case:
    """Feed an agent one bad row, in the fourth of forty batches, as the issue has it."""
    source, calibration = variant.split()

    def act() -> str:
        agent = TemperatureAgent(
            reward_source="next_batch", metric=source, calibration=calibration, minibatches=2
        )
        torch.manual_seed(0)
        for number in range(40):
            student, teacher = torch.randn(2, 16, 10)
            if number == 3:
                teacher[0] = torch.nan_to_num(teacher[0]) * value
            with values_unchecked():
                found = agent(student, teacher, torch.randint(10, (16,)))
            _check_temperatures(found, "agent", student, teacher, sane=True, highest=10.0)
        agent.eval()
        found = agent(*torch.randn(2, 16, 10), torch.randint(10, (16,)))
        _check_temperatures(found, "agent", *torch.zeros(2, 16, 10), sane=True, highest=10.0)
        return f"T {found.student[:3].tolist()}, {agent.updates} updates"

    return Case(f"agent {variant}, one row of {value}", act)


FOUND = {
    f"{variant}, one row times {value}": partial(_poisoned, variant, value)
    for variant in ("accuracy additive", "loss additive", "loss recurrent", "accuracy none")
    for value in (float("nan"), float("inf"), 1e30)
}
"""The agent that one bad row poisoned for ever."""
