"""Configuration: Hydra groups and overrides in, one checked tree out."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rlkd import models
from rlkd.errors import UserError
from rlkd.models.detectors import backbone_detector_names

GROUPS = (
    "data",
    "teacher",
    "student",
    "method",
    "temperature",
    "optimizer",
    "scheduler",
    "task",
    "experiment",
)
LAUNCHER = "launcher"
"""The group of how the runs of a sweep are started, which is no part of any run."""


def portion(total: int, part: int, whole: int, least: int = 0) -> int:
    """Return part/whole of a total, rounded: the same point of a run of another length."""
    return max(round(total * part / whole), least)


def probe_interval(probe: int, batch: int) -> int:
    """Return the updates from one probe to the next, for both sizes in images.

    They train on eight times the probe's images, so that scoring them costs as little beside small
    batches as beside large ones; 32 updates at least.
    """
    return max(32, -(-8 * probe // max(batch, 1)))


def options(group: str) -> list[str]:
    """List what a group may be set to."""
    with _hydra():
        return _options(group)


def configure(overrides: Iterable[str] = ()) -> DictConfig:
    """Compose the configuration.

    Args:
        overrides: Hydra's, such as `student=resnet20` or `trainer.epochs=10`. A network may also
            be `torchvision:NAME`, `timm:NAME`, `package.module:factory`, or a detector over any of
            torchvision's classifiers, such as `fasterrcnn_resnet18`. `configs=DIR` adds a folder
            of one's own groups: DIR/method/mine.yaml is then method=mine.

    Raises:
        UserError: for a folder that is not there, an unknown key or group value (with the nearest
            known), a value that does not parse, or one that is missing.
    """
    with _hydra():
        given = [each for override in overrides for each in _in_hydras_words(override)]
        config = _checked("config", given, GROUPS)
    for key in _SECTIONS:
        if key not in config:
            raise UserError(f"{key} cannot be left out: override its settings instead")
    if config.output is None:
        choices = [choice(config, group) for group in _NAMED]
        config.output = "runs/" + "_".join([*choices, f"seed{config.seed}"])
    return config


def configure_launcher(overrides: Iterable[str] = ()) -> DictConfig:
    """Compose how the runs of a sweep are started.

    Args:
        overrides: those of the launcher: `launcher=submitit_slurm`, `launcher.partition=gpu`.

    Raises:
        UserError: as `configure` does.
    """
    with _hydra():
        return _checked("launching", list(overrides), (LAUNCHER,))[LAUNCHER]


def choice(config: DictConfig, group: str) -> str:
    """Return what a group was set to, a network by its name, as a part of a folder's name."""
    named = config[group].name if group in _NETWORKS else None
    chosen = str(config.chosen[group] if named is None else named)
    return re.sub(r"[:/\\\s]+", "_", chosen)


def sweep(overrides: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Part overrides into those of many values and those of one.

    Args:
        overrides: Hydra's, some as `key=a,b,c`.

    Returns:
        The values of each swept key (with Hydra's `+` before it, where it has one), in order, and
        the other overrides as they were.

    Raises:
        UserError: for what does not parse, or a sweep over a range that Hydra alone knows.
    """
    swept: dict[str, list[str]] = {}
    single: list[str] = []
    for given in overrides:
        with _hydra():
            (parsed,) = _parse([given])
        if not parsed.is_sweep_override():
            single.append(given)
        elif not parsed.is_choice_sweep():
            raise UserError(f"{given}: give the values one by one, {parsed.key_or_group}=a,b,c")
        else:
            values = [str(each) for each in parsed.sweep_string_iterator()]
            swept[given.partition("=")[0]] = [each.replace("\\:", ":") for each in values]
    return swept, single


def as_yaml(config: DictConfig) -> str:
    """Return a configuration as YAML, interpolations resolved.

    Raises:
        UserError: for a mandatory value that is missing, or one that depends on an impossible one.
    """
    try:
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise unresolved(error) from None
    return OmegaConf.to_yaml(config, resolve=True)


def unresolved(error: OmegaConfBaseException, prefix: str = "") -> UserError:
    """Return what the user can mend about a value that OmegaConf does not give.

    Args:
        error: what it raised.
        prefix: goes before the key.
    """
    key = prefix + (getattr(error, "full_key", None) or "")
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{key} is missing: give {key}=...")
    return UserError(f"{key}: {str(error).splitlines()[0]}")


_SECTIONS = (*GROUPS[:-1], "trainer", "probe", "exploration", "published", "seed", "output")
_SEARCH = "hydra.searchpath"
_NAMED = ("data", "teacher", "student", "method", "temperature")
_NETWORKS = ("teacher", "student")
_LISTED = tuple(
    f"fasterrcnn_{each}"
    for each in ("resnet18", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large")
)
"""Those of the detectors over torchvision's classifiers that are told among the options."""


def _hydra() -> initialize_config_module:
    GlobalHydra.instance().clear()
    if not OmegaConf.has_resolver("portion"):
        _register()
    return initialize_config_module("rlkd.configs", version_base=None)


def _register() -> None:
    """Tell Hydra of what is no file: resolvers, and a choice for each network."""
    OmegaConf.register_new_resolver("portion", portion)
    OmegaConf.register_new_resolver("probe_interval", probe_interval)
    store = ConfigStore.instance()
    for name in (*models.names(), *models.detector_names(), *_LISTED, "custom"):
        network = {"name": None if name == "custom" else name, "checkpoint": None}
        store.store(group="student", name=name, node=network)
        store.store(group="teacher", name=name, node=network | {"mean": None, "std": None})


def _checked(name: str, given: list[str], known_groups: Collection[str]) -> DictConfig:
    """Compose a configuration by name, and tell what does not fit with the nearest that does."""
    parsed = _parse(given)
    for each in parsed:
        if each.is_sweep_override():
            raise UserError(
                f"{each.input_line}: several values are for `rlkd compare`, or for --multirun"
            )
    own = [each for each in given if each.startswith(_SEARCH)]
    groups = [each for each in parsed if each.key_or_group in known_groups]
    for each in groups:
        _check_choice(each, own)
    try:
        return _compose(name, given)
    except UserError:
        known = set(_keys(_compose(name, [*own, *(str(each.input_line) for each in groups)])))
        for each in parsed:
            if each not in groups and each.input_line not in own and not each.is_add():
                _check_key(each.key_or_group, known)
        raise


def _compose(name: str, overrides: list[str]) -> DictConfig:
    try:
        composed = compose(name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split())) from None
    chosen = {group: composed.hydra.runtime.choices.get(group) for group in GROUPS}
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra")
    composed["chosen"] = chosen
    OmegaConf.set_struct(composed, True)
    return composed


def _parse(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{line}: give overrides as key=value") from None


def _in_hydras_words(override: str) -> list[str]:
    key, _, value = override.partition("=")
    elsewhere = value in backbone_detector_names() and value not in _LISTED
    if key in _NETWORKS and (":" in value or elsewhere):
        return [f"{key}=custom", f"{key}.name='{value}'"]
    if key == "configs":
        folder = Path(value)
        if not folder.is_dir():
            raise UserError(f"configs={value}: there is no such folder; give one of your groups")
        for path in sorted(folder.glob("*/*.yaml")):
            if path.parent.name in GROUPS and path.stem in _options(path.parent.name):
                raise UserError(f"{path}: {path.stem} is packaged already; give it another name")
        return [f"{_SEARCH}=['file://{folder.resolve()}']"]
    return [override]


def _options(group: str, own: list[str] | None = None) -> list[str]:
    return _options_with(group, own) if own else list(_packaged_options(group))


@cache
def _packaged_options(group: str) -> tuple[str, ...]:
    return tuple(_options_with(group, []))


def _options_with(group: str, own: list[str]) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options(group, config_name="config", overrides=own)


def _check_choice(override: Override, own: list[str]) -> None:
    value = override.value()
    known = _options(override.key_or_group, own)
    if value in known or override.is_delete():
        return
    further = backbone_detector_names() if override.key_or_group in _NETWORKS else []
    hint = _nearest(value, [*known, *further]) if isinstance(value, str) else ""
    raise UserError(f"{override.input_line}: {hint}one of {', '.join(known)}")


def _check_key(key: str, known: set[str]) -> None:
    if key not in known:
        raise UserError(
            f"there is no setting {key}: {_nearest(key, known)}see them all with `rlkd show`"
        )


def _nearest(value: str, known: Iterable[str]) -> str:
    by_lower_case = {each.lower(): each for each in known}
    found = difflib.get_close_matches(value.lower(), by_lower_case, cutoff=0.5)
    near = [by_lower_case[each] for each in found]
    # Several are often equally near: resnet21 is to mean resnet20 rather than resnet32.
    near.sort(key=lambda each: _common_start(each.lower(), value.lower()), reverse=True)
    return f"did you mean {near[0]}? " if near else ""


def _common_start(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        path = f"{prefix}{key}"
        yield path
        child = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(child, DictConfig):
            yield from _keys(child, f"{path}.")
