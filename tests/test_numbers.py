"""Every number of every part is checked when the part is made: bad ones are tried on all there are.

Parts are found by their signatures, so that one that is added fails here until it checks its own.
"""

import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import jaxtyping
import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

import rlkd
from rlkd import arguments
from rlkd.agent.actor_critic import Actor, Critic
from rlkd.config.compose import configure
from rlkd.errors import InputError, UserError
from rlkd.exploration import Bands

CONFIGS = Path(rlkd.__file__).parent / "configs"
CORE = ("agent", "temperature", "exploration", "losses", "data")
SHELL = ("config", "engine", "tasks", "sweep")
"""Of these the options are checked."""

INTERNAL = {
    "rlkd.temperature.bounded_gaussian.BoundedGaussian": "made at every step, of checked values",
    "rlkd.agent.look_ahead.Looking": "made by the agent, whose numbers these are",
    "rlkd.agent.evidence.Evidence": "of as many weights as the actor has",
    "rlkd.agent.rollout.Window": "a counter's start",
    "rlkd.losses.contrastive.MemoryBank": "made by CRD, which checks both sizes",
    "rlkd.losses.factor_transfer.Translator": "of the channels of two maps, made by FT",
    "rlkd.losses.factor_transfer.Paraphraser": "likewise",
    "rlkd.losses.review.Fusion": "of the channels of maps, made by ReviewKD",
    "rlkd.losses.inputs.LossInputs": "what a step has for its losses, which check it",
    "rlkd.data.transforms.mixing.Mixing": "made of task.mix and task.mix_alpha, which are checked",
    "rlkd.losses.inputs.Asked": "read off a signature",
    "rlkd.data.transforms.resized_crop.Crop": "drawn by Views",
    "rlkd.data.sources.tar_headers.Member": "read off a header, and held against the file",
    "rlkd.data.loaders.normaliser.Normaliser": "made by a loader of a data set's own numbers",
    "rlkd.data.sources.process_cache.ProcessCache": "made with a number in the code",
    "rlkd.data.dataset.Dataset": "a record of what was loaded, made by functions that check",
    "rlkd.data.loaders.workers.Request": "a message to a worker",
    "rlkd.data.loaders.stream_set.StreamSet": "made of data.views; see tests of numbered views",
    "rlkd.data.loaders.workers.Maker": "made by a loader",
    "rlkd.data.loaders.memory.MemoryLoader": "made of a run's options, see Plan",
    "rlkd.data.loaders.loader.BatchLoader": "likewise",
    "rlkd.data.detection.loader.DetectionLoader": "likewise",
    "rlkd.data.loaders.batch_plan.Plan": "likewise; `rank_checks` sees that ranks share evenly",
    "rlkd.data.sources.parquet.ParquetSource": "made by `parquet`, which checks",
    "rlkd.data.sources.tar.TarSource": "made by `webdataset`, which checks",
    "rlkd.data.detection.coco_set.CocoSet": "a record of what was read",
    "rlkd.data.detection.coco.coco": "its flag names no number",
}

ZERO = {
    "warmup_epochs": "no warm-up",
    "actor_learning_rate": "a policy that stays as it is",
    "critic_learning_rate": "likewise",
    "coherence": "the paper's independent noise",
    "discount": "the bandit form",
    "gae_lambda": "likewise",
    "entropy_bonus": "no bonus",
    "alpha": "a part of a loss left out",
    "beta": "likewise",
    "gamma": "likewise",
    "instance_weight": "likewise",
    "batch_weight": "likewise",
    "class_weight": "likewise",
    "strong_weight": "likewise",
    "distance_weight": "likewise",
    "angle_weight": "likewise",
    "reconstruction_weight": "a frozen paraphraser",
    "weight": "a loss that is computed and logged alone",
    "label_smoothing": "the labels as they are",
    "strength": "the base temperature for all",
    "momentum": "a bank of the latest rows alone",
    "initial_raw": "T in the middle of its range",
    "seed": "as good as any",
    "epochs": "no exploration",
    "mix_weight": "the partner's image alone",
    "warmup": "no warm-up",
    "validation_size": "none held out",
    "size": "no probe",
    "probe_size": "no probe",
    "workers": "this process reads",
    "max_timeouts": "no second try",
    "gpus_per_node": "a machine without any",
    "signal_delay_s": "no notice",
}
NEGATIVE = {
    "initial_raw": "T below the middle of its range",
    "weight": "a loss that the student climbs",
}
LARGE = 10**30


def kind_of(annotation: Any) -> tuple[str, tuple[Any, ...]] | None:
    """Return what an argument takes, `int`, `float` or `bool`, and what else; None for none."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(annotation) if union else (annotation,)
    for kind in (float, int, bool):
        if kind in kinds and not (kind is bool and len(kinds) > 1):
            return kind.__name__, tuple(each for each in kinds if each is not kind)
    return None


def numbers_of(part: Any) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    hints = typing.get_type_hints(part.__init__ if inspect.isclass(part) else part)
    for name in inspect.signature(part).parameters:
        kind = kind_of(hints.get(name))
        if kind is not None:
            yield (name, *kind)


def parts() -> dict[str, Any]:
    """Find what a configuration or a user makes a run of."""
    found: dict[str, Any] = {}
    for room in (*CORE, *SHELL):
        package = importlib.import_module(f"rlkd.{room}")
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for name, one in vars(importlib.import_module(each.name)).items():
                own = inspect.isclass(one) and one.__module__ == each.name and name[0] != "_"
                if own and (room in CORE or name.endswith("Options")):
                    found[f"{each.name}.{name}"] = one
    for name in rlkd.losses.__all__:
        found[f"rlkd.losses.{name}"] = getattr(rlkd.losses, name)
    for path in CONFIGS.rglob("*.yaml"):
        for target in re.findall(r"_target_: (rlkd\.\S+)", path.read_text(encoding="utf-8")):
            found[target] = get_object(target)
    once = {
        one: name
        for name, one in reversed(found.items())
        if inspect.isroutine(one) or inspect.isclass(one)
    }
    return {
        name: one
        for one, name in once.items()
        if not issubclass(one if inspect.isclass(one) else int, dict | Exception)
        and any(True for _ in numbers_of(one))
    }


PARTS = parts()


def bad_values(name: str, kind: str, others: tuple[Any, ...]) -> Iterator[Any]:
    if kind == "bool":
        yield from ("false", 2, None)
        return
    yield from (math.nan, math.inf, -math.inf, True, "a", LARGE, -LARGE)
    if kind == "int":
        yield 2.5
    if type(None) not in others:
        yield None
    if not {torch.Tensor, Sequence} & {typing.get_origin(each) or each for each in others}:
        yield from (torch.ones(2), [1])
    if name not in ZERO:
        yield 0
    if name not in NEGATIVE:
        yield -1


@cache
def packaged() -> dict[str, dict[str, Any]]:
    """Return the packaged values of options, by the name of their class."""
    plain, regions = configure(["task=classification"]), configure(["task=detection"])
    sections = {
        "TrainerOptions": plain.trainer,
        "ProbeOptions": plain.probe,
        "ExplorationOptions": plain.exploration,
        "Classification": plain.task,
        "DetectionOptions": regions.task,
        "Detection": regions.task,
    }
    held = {name: OmegaConf.to_container(each, resolve=True) for name, each in sections.items()}
    return cast("dict[str, dict[str, Any]]", held)


def examples(part: Any) -> dict[str, Any]:
    """Return what a part must be given, by the names of its parameters."""
    logits, feature = torch.randn(4, 5), torch.randn(4, 6, 4, 4)
    given: dict[str, Any] = {
        **dict.fromkeys(("student_logits", "teacher_logits", "like"), logits),
        **dict.fromkeys(("student_feature", "teacher_feature"), feature),
        **{each: [feature] for each in ("student_features", "teacher_features")},
        **dict.fromkeys(("student_embedding", "teacher_embedding"), torch.randn(4, 6)),
        **dict.fromkeys(("target", "train_targets"), torch.tensor([0, 1, 2, 3])),
        **{"temperature": 4.0, "loss": rlkd.losses.kd, "bands": Bands()},
        **{"base_temperature": 4.0, "max_temperature": 10.0, "initial_std": 0.5, "hidden": 8},
        **{"clip": 0.2, "epochs": 1, "minibatches": 2, "max_grad_norm": 1.0, "entropy_bonus": 0.0},
        **dict.fromkeys(("learning_rate", "actor_learning_rate", "critic_learning_rate"), 1e-3),
        **{"iterations": 1, "seed": 0, "params": [torch.nn.Parameter(torch.zeros(1))]},
        **{"instances": 64, "num_classes": 5, "first_epoch": 1, "image_size": 32},
        **{"root": "/nonexistent", "class_names": 5, "total_steps": 100},
        **{"student": torch.nn.Linear(2, 2), "image": torch.zeros(4, 3, 4, 4)},
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1),
        "actor": lambda: Actor(
            base_temperature=4.0, max_temperature=10.0, initial_std=0.5, hidden=8
        ),
        "critic": lambda: Critic(hidden=8),
        **packaged().get(part.__name__, {}),
    }
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [
        name
        for name, each in inspect.signature(part).parameters.items()
        if each.default is each.empty and each.kind in kinds
    ]
    made = {name: given[name] for name in needed}
    return {name: made[name]() if name in ("actor", "critic") else made[name] for name in made}


CASES = [
    (part, *number) for part in PARTS if part not in INTERNAL for number in numbers_of(PARTS[part])
]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Leave out the test run's own type checks: what a user meets is the part's."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("part", "name", "kind", "others"), CASES)
def test_a_bad_number_is_refused_by_its_name(
    part: str, name: str, kind: str, others: tuple[Any, ...]
) -> None:
    given = examples(PARTS[part])
    called = {"interval": "probe_interval", "buffer": "(calibration_)?buffer"}.get(name, name)
    for bad in bad_values(name, kind, others):
        try:
            PARTS[part](**(given | {name: bad}))
        except UserError as error:
            line = str(error)
            assert re.search(rf"\b{called}=.*: give ", line), (bad, line)
            assert "\n" not in line
        else:
            pytest.fail(f"{part} takes {name}={bad!r}")


def test_every_exception_is_still_needed() -> None:
    names = {name for _, name, _, _ in CASES}
    assert INTERNAL.keys() - PARTS.keys() == set()
    assert (ZERO.keys() | NEGATIVE.keys()) - names == set()
    assert {"rlkd.agent.ppo.PPO", "rlkd.losses.dkd", "rlkd.data.datasets.folder"} <= PARTS.keys()


def test_a_number_is_refused_in_one_line_whatever_it_is() -> None:
    for bad in (10**5000, "a\nb", "x" * 9999, torch.zeros(3, 3), float("nan")):
        with pytest.raises(InputError) as refused:
            arguments.count("lr", bad)
        assert len(str(refused.value)) < 150
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ({"least": 0, "most": 1}, "T=-7: give a number from 0 to 1"),
        ({"least": 0, "below": 1}, "T=-7: give a number from 0 to below 1"),
        ({"above": 0}, "T=-7: give a number above 0, at most 1e+06"),
        ({"above": 0, "below": 9}, "T=-7: give a number above 0, below 9"),
        ({"above": 0, "optional": True}, "T=-7: give a number above 0, at most 1e+06, or null"),
    ],
)
def test_the_range_is_said(wanted: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as refused:
        arguments.number("T", -7, **wanted)
    assert str(refused.value) == line


def test_the_ends_of_a_range_are_in_it_or_not() -> None:
    arguments.number("T", 1, least=1, most=1)
    arguments.count("n", 1)
    arguments.seed("seed", 2**32 - 1)
    for bound in ({"above": 1}, {"below": 1}):
        with pytest.raises(InputError):
            arguments.number("T", 1, **bound)
    with pytest.raises(InputError):
        arguments.seed("seed", 2**32)
