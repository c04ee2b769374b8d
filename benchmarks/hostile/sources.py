"""Temperature sources and the agent, fed rows and answers that a run should not meet."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from rlkd import temperature
from rlkd.agent import TemperatureAgent
from rlkd.checks import values_unchecked
from rlkd.errors import InputError
from rlkd.temperature import RandomTemperature, TemperatureSource
from rlkd.types import Temperatures

from . import tensors
from .verdict import Case, FailedError, Place

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
    "adakd": (temperature.AdaKD, {"base_temperature": 4.0, "strength": 0.5}),
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


def source(draw: Random) -> Case:
    """Draw a source, and three batches."""
    name = draw.choice(list(SOURCES))
    built, defaults = SOURCES[name]
    options, odd = dict(defaults), draw.random() < 0.25
    if odd:
        options[draw.choice(list(options))] = draw.choice(tensors.NUMBERS)
    _, checks = tensors.checked(draw)
    classes = 5 if name == "ctkd_instance" else draw.choice((5, 2, 1))
    batches = [tensors.batch(draw, draw.choice((4, 1)), classes) for _ in range(3)]
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

    return Case(f"source {name} {options if odd else ''} {tensors.said(*batches[0])}", act)


def agent(draw: Random) -> Case:
    """Draw an agent, ten batches, and what it is answered."""
    options = {key: draw.choice(values) for key, values in AGENT.items()}
    odd = draw.random() < 0.3
    if odd:
        options[draw.choice(list(options))] = draw.choice(tensors.NUMBERS)
        if options["hidden"] not in (8, 0, -1, 2, 3):
            options["hidden"] = draw.choice((0, -1, 2.5, "x", None))
    _, checks = tensors.checked(draw)
    rows, classes = draw.choice((6, 4, 1)), draw.choice((5, 2))
    quiet = draw.random() < 0.15  # every row is bad, always
    batches = [tensors.batch(draw, rows, classes) for _ in range(10)]
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
        learner = TemperatureAgent(**options)
        if isinstance(options["max_temperature"], float | int):
            highest = float(options["max_temperature"])
        refused = 0
        said = ""
        for number, ((student, teacher, target), answer, mask) in enumerate(
            zip(batches, answers, masks, strict=True)
        ):
            learner.start_epoch(1 + number // 3)
            learner.train(number % 4 < 3)
            with checks():
                try:
                    found = learner(student, teacher, target, learn_from=mask)
                except InputError:
                    refused += 1
                    continue
            _check_temperatures(found, "agent", student, teacher, sane=not odd, highest=highest)
            if learner.observation_due:
                learner.observe(torch.tensor(answer))
            bad = [name for name, each in learner.named_parameters() if not each.isfinite().all()]
            if bad:
                raise FailedError("nonsense", f"batch {number}: {bad}", "agent: weights not finite")
            said = f"T {found.student[:3].tolist()}"
            if number == saved:
                other = TemperatureAgent(**options)
                other.load_state_dict(learner.state_dict())
                learner = other
        bad = tensors.not_finite(learner.state_dict())
        if bad:
            raise FailedError(
                "nonsense", f"{bad}", f"agent: state not finite: {bad[0].split()[0].split('.')[-1]}"
            )
        return f"{said}, {refused} batches refused, {learner.updates} updates"

    return Case(f"agent {options} all rows bad={quiet} {tensors.said(*batches[0])}", act)


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


def _poisoned(variant: str, value: float, draw: Random, place: Place) -> Case:
    """Feed an agent one bad row, in the fourth of forty batches, as the issue has it."""
    source, calibration = variant.split()

    def act() -> str:
        learner = TemperatureAgent(
            reward_source="next_batch", metric=source, calibration=calibration, minibatches=2
        )
        torch.manual_seed(0)
        for number in range(40):
            student, teacher = torch.randn(2, 16, 10)
            if number == 3:
                teacher[0] = torch.nan_to_num(teacher[0]) * value
            with values_unchecked():
                found = learner(student, teacher, torch.randint(10, (16,)))
            _check_temperatures(found, "agent", student, teacher, sane=True, highest=10.0)
        learner.eval()
        found = learner(*torch.randn(2, 16, 10), torch.randint(10, (16,)))
        _check_temperatures(found, "agent", *torch.zeros(2, 16, 10), sane=True, highest=10.0)
        return f"T {found.student[:3].tolist()}, {learner.updates} updates"

    return Case(f"agent {variant}, one row of {value}", act)


FOUND = {
    f"{variant}, one row times {value}": partial(_poisoned, variant, value)
    for variant in ("accuracy additive", "loss additive", "loss recurrent", "accuracy none")
    for value in (float("nan"), float("inf"), 1e30)
}
"""The agent that one bad row poisoned for ever."""
