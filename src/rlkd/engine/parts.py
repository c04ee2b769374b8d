"""The parts of a run, made of what its configuration names: the one door to code by name.

Whoever wrote a configuration (it may have come in a run folder) chooses what is called and with
which values, so that the rule is about what can be called at all. In each section of `PLACES`, and
in the nodes below it, a `_target_` is one of two things:

- a class or function that a package defines which the user trusts (`trust=mine`);
- one of the kind that the section is made of, defined in the rooms that have that kind: an
  optimiser is a subclass of `torch.optim.Optimizer` of torch.optim, timm.optim or transformers,
  data are a function of rlkd.data that is annotated to return a `Dataset`.

What is of the second sort computes on what it is given: it runs no program and writes no file, and
data alone read files (and fetch them, where `data.download` says so, which a stored run never
does). `torch.hub.load`, `torch.load` and `torch.save` are of no kind that a section is made of, and
neither are Python's own functions. The values are plain: text, numbers, truth, null, lists and
mappings, resolved before the first name is looked up, and not again. Names are looked up by
`rlkd.trust`, as those of networks are (`student=mine.net:build`).
"""

import inspect
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rlkd.config.compose import unresolved
from rlkd.config.settings import OF_A_PART, trusted_by
from rlkd.data.dataset import Dataset
from rlkd.data.detection.coco import DetectionSets
from rlkd.engine.task import Task
from rlkd.errors import InputError, UserError, one_line
from rlkd.losses import Objective
from rlkd.temperature import TemperatureSource
from rlkd.trust import TRUST, found, is_defined_in


@dataclass(frozen=True)
class Place:
    """What a section is made of, unless the user trusts other code."""

    kinds: tuple[type, ...]
    """What it is: an object of one of these classes, or what makes one."""
    rooms: tuple[str, ...]
    """The modules and packages that define it."""
    of_parts: bool = False
    """Whether parts of it may be anything that the rooms define."""
    later: bool = False
    """Whether the run calls what was made, to make one of the kinds."""
    unannotated: tuple[str, ...] = ()
    """Modules whose functions make one of the kinds, though they are not annotated to."""

    def takes(self, thing: object) -> bool:
        """Return whether it is a class below the kinds, or a function that returns one of them.

        Where there are parts, it may be any class or function of the rooms.
        """
        is_function = inspect.isfunction(thing)
        if is_function and is_defined_in(thing, self.unannotated):
            return True
        if not is_defined_in(thing, self.rooms):
            return False
        if self.of_parts:
            return is_function or inspect.isclass(thing)
        if inspect.isclass(thing):
            return issubclass(thing, self.kinds) and thing not in self.kinds
        try:
            made = inspect.get_annotations(thing, eval_str=True).get("return")  # pyright: ignore
        except Exception:  # of a name, say, that its module imports for type checkers alone
            return False
        return inspect.isclass(made) and issubclass(made, self.kinds)


PLACES = {
    "data": Place((Dataset, DetectionSets), ("rlkd.data",)),
    "method": Place((Objective,), ("rlkd.losses",), of_parts=True),
    "temperature": Place((TemperatureSource,), ("rlkd.agent", "rlkd.temperature")),
    "optimizer": Place(
        (Optimizer,), ("torch.optim", "timm.optim", "transformers.optimization"), later=True
    ),
    "scheduler": Place(
        (LRScheduler,),
        ("torch.optim", "rlkd.engine.lr_schedules"),
        later=True,
        unannotated=("transformers.optimization",),
    ),
    "task": Place((Task,), ("rlkd.tasks.classification.task", "rlkd.tasks.detection.task")),
}
"""The sections that are made of what they name."""


def make(config: DictConfig, section: str, **given: Any) -> Any:
    """Make a section of what its `_target_`, and those below it, name.

    Args:
        config: the whole configuration.
        section: one of `PLACES`.
        **given: values in place of the section's own.

    Raises:
        UserError: if it names what is not for it, or its values do not fit what it names.
    """
    try:
        held: Any = OmegaConf.to_container(config[section], resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise unresolved(error) from None
    if not isinstance(held, dict) or "_target_" not in held:
        raise UserError(f"{section} names nothing to make: give {section}._target_=...")
    place = PLACES[section]
    made = _made(held | given, section, place, trusted_by(config))
    if not (callable(made) if place.later else isinstance(made, place.kinds)):
        kinds = " or ".join(each.__name__ for each in place.kinds)
        raise UserError(
            f"{section}._target_={held['_target_']} made a {type(made).__name__}: give what makes "
            f"a {kinds}"
        )
    return made


@contextmanager
def fixable(name: str, values: Mapping[str, Any]) -> Generator[None]:
    """Report as the user's what goes wrong while a part is made: see `--debug` for where.

    Args:
        name: the key of the part.
        values: those that it was made of, to be shown.

    Raises:
        UserError: for whatever was raised within.
    """
    try:
        yield
    except InputError as error:  # a part names its argument, the user gave it by a key
        argument = str(error).partition("=")[0]
        raise InputError(f"{name}.{error}" if argument in values else str(error)) from None
    except UserError:
        raise
    except Exception as error:
        said = one_line(error)
        if not said or not isinstance(error, TypeError | ValueError | OSError | RuntimeError):
            said = f"{type(error).__name__}: {said}"
        settings = [
            f"{key}={value}"
            for key, value in values.items()
            if not str(key).startswith("_") and not isinstance(value, dict)
        ]
        hint = f"; its settings are {', '.join(settings)}" if settings else ""
        raise UserError(f"{name} does not build: {said}{hint}") from error


def _made(held: Any, key: str, place: Place, trusted: Collection[str]) -> Any:
    if isinstance(held, list):
        return [_made(each, f"{key}.{i}", place, trusted) for i, each in enumerate(held)]
    if not isinstance(held, dict):
        return held
    node: dict[Any, Any] = held
    named = "_target_" in node
    called = _called(node["_target_"], f"{key}._target_", place, trusted) if named else dict
    values = {
        name: _made(each, f"{key}.{name}", place, trusted)
        for name, each in node.items()
        if not (named and name in OF_A_PART)
    }
    if not named:
        return values
    with fixable(key, node):
        deferred = node.get("_partial_", False)
        if not isinstance(deferred, bool):
            raise ValueError(f"_partial_={deferred}: give true or false")
        return partial(called, **values) if deferred else called(**values)


def _called(name: Any, where: str, place: Place, trusted: Collection[str]) -> Any:
    """Return what a `_target_` names, if it may be called there."""
    module, _, attribute = str(name).rpartition(".")
    thing = found(str(name), module, attribute, trusted, where=where)
    if thing is None:
        raise UserError(f"{where}={name}: {module} has no {attribute}")
    if callable(thing) and (is_defined_in(thing, trusted) or place.takes(thing)):
        return thing
    section, rooms = where.partition(".")[0], ", ".join(place.rooms + place.unannotated)
    raise UserError(
        f"{where}={name}: {section} is made of what {rooms} has for it; for other code, wrap it in "
        f"a function of a package of your own, and add {TRUST}=that_package"
    )
