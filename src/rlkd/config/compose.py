"""Configuration: Hydra groups and overrides in, one checked tree out."""

import os
import re
from collections.abc import Collection, Iterable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rlkd import models
from rlkd.config.overrides import as_swept, parse, parted, path_value, quoted
from rlkd.config.settings import (
    NETWORKS,
    PACKAGED,
    apply,
    expand_paths,
    flat,
    require_allowed,
    stored,
    trust,
)
from rlkd.errors import UserError, did_you_mean, one_line
from rlkd.models import hub

GROUPS = (
    "data",
    "teacher",
    "student",
    "method",
    "temperature",
    "optimizer",
    "scheduler",
    "task",
    "logger",
    "experiment",
)
ALONE = ("method=alone", "teacher=none", "temperature=constant")
"""The overrides of training on labels alone."""
LAUNCHER = "launcher"
"""The group of how the runs of a sweep are started, which is no part of any run."""


STANDARDISED = "standardised"
"""The logits that the published weights are known for, beside plain ones."""
_ON_BATCHES = ("next_batch", "same_batch")
"""The sources of a reward that is measured on training batches."""


def portion(total: int, part: int, whole: int, least: int = 0) -> int:
    """Return part/whole of a total, rounded: the same point of a run of another length."""
    return max(round(total * part / whole), least)


def probe_size(reward_source: str, size: int, source: str) -> int:
    """Return the images to hold out for a reward: none where it is measured on training batches."""
    return 0 if reward_source in _ON_BATCHES or source == "upcoming" else size


def logits_over(over: str) -> str:
    """Return which published weights an agent's temperatures go with."""
    return over if over == STANDARDISED else "plain"


def start_over(over: str, plain: float, standardised: float) -> float:
    """Return the base temperature of an agent over standardised logits, or over others."""
    return standardised if over == STANDARDISED else plain


def probe_interval(reward_source: str, probe: int, batch: int) -> int:
    """Return the updates from one measurement to the next, for both sizes in images.

    They train on twelve times the probe's images, so that scoring them costs as little beside small
    batches as beside large ones; 32 updates at least. A look-ahead takes a batch of the probe at a
    time: for it they are 32.
    """
    scored = probe if reward_source == "probe" else 0
    return max(32, -(-12 * scored // max(batch, 1)))


def options(group: str, folder: Path | None = None) -> list[str]:
    """List what a group may be set to.

    Args:
        group: its name.
        folder: of one's own groups, whose options are listed too.
    """
    folders = [PACKAGED] if folder is None else [PACKAGED, folder]
    named = {path.stem for each in folders for path in (each / group).glob("*.yaml")}
    return sorted(named.union(_network_names() if group in NETWORKS else ()))


def packaged(group: str, name: str) -> Path:
    """Return the packaged file of an option of a group."""
    return PACKAGED / group / f"{name}.yaml"


def configure(overrides: Iterable[str] = ()) -> DictConfig:
    """Compose the configuration: the choices of groups first, then single settings, in order.

    Args:
        overrides: Hydra's, such as `student=resnet20` or `trainer.epochs=10`; paths as they are,
            see `overrides.PATHS`. A network may also be `torchvision:NAME`, `timm:NAME`,
            `package.module:factory`, one of the Hugging Face Hub with its weights,
            `hf://user/name@revision` (see `rlkd.models.hub`), or a detector over any of
            torchvision's classifiers, such as `fasterrcnn_resnet18`. `configs=DIR` adds a folder
            of one's own groups: DIR/method/mine.yaml is then method=mine. `trust=mine` lets what is
            composed name code of the package `mine`, see `rlkd.trust`; it is stored nowhere.

    Raises:
        UserError: for a folder that is not there, an unknown key or group value (with the nearest
            known), a setting that nothing reads, a value that does not parse, or one that is
            missing.
    """
    config = _composed("config", overrides, GROUPS)
    try:
        require_whole(config)
        if config.output is None:
            choices = [choice(config, group) for group in _NAMED]
            config.output = "runs/" + "_".join([*choices, f"seed{config.seed}"])
        expand_paths(config)
    except OmegaConfBaseException as error:
        raise unresolved(error) from None
    return config


def defaults(config: DictConfig, keys: Collection[str]) -> dict[str, Any]:
    """Return what some settings of a configuration are where nobody gives them.

    Args:
        config: a composed configuration; its `chosen` says what each group was set to.
        keys: the whole keys of the settings. All others are as the configuration has them.

    Returns:
        Their values by key; without those that no packaged file has.
    """
    words = [f"{group}={name}" for group, name in config.chosen.items() if name is not None]
    try:
        composed = _composed("config", words, GROUPS)
        for key, value in flat(cast("dict[str, Any]", OmegaConf.to_container(config))):
            if key not in keys and not key.startswith("chosen."):
                OmegaConf.update(composed, key, value, force_add=True)
        held: Any = OmegaConf.to_container(composed, resolve=True)
    except (UserError, OmegaConfBaseException):
        return {}
    known = dict(flat(held))
    return {key: known[key] for key in keys if key in known}


def require_whole(config: DictConfig) -> None:
    """Refuse a configuration without one of its sections, or with code that is not trusted.

    Raises:
        UserError: naming what is missing or not trusted.
        OmegaConfBaseException: for a value that refers to what is not there.
    """
    required = (each for each in GROUPS if each not in ("logger", "experiment"))
    for key in (*required, "trainer", "probe", "exploration"):
        if not isinstance(config.get(key), DictConfig):
            raise UserError(f"{key} cannot be left out: override its settings instead")
    of_networks = [f"{role}.{key}" for role in NETWORKS for key in ("name", "checkpoint")]
    for key in (*of_networks, "seed", "output"):
        parent, _, name = key.rpartition(".")
        if name not in (config[parent] if parent else config):
            raise UserError(f"{key} cannot be left out: give {key}=null, say")
    require_allowed(config)


def configure_launcher(overrides: Iterable[str] = ()) -> DictConfig:
    """Compose how the runs of a sweep are started.

    Args:
        overrides: those of the launcher: `launcher=submitit_slurm`, `launcher.partition=gpu`.

    Raises:
        UserError: as `configure` does.
    """
    return _composed("launching", overrides, (LAUNCHER,))[LAUNCHER]


def choice(config: DictConfig, group: str) -> str:
    """Return what a group was set to, a network by its name, as a part of a folder's name."""
    named = config[group].name if group in NETWORKS else None
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
        parsed = parse(given)
        if parsed.is_sweep_override():
            swept[given.partition("=")[0]] = as_swept(parsed)
        else:
            single.append(given)
    return swept, single


def as_yaml(config: DictConfig) -> str:
    """Return a configuration as it is stored: YAML, interpolations resolved, trusting nobody.

    Raises:
        UserError: for a mandatory value that is missing, or one that depends on an impossible one.
    """
    try:
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise unresolved(error) from None
    return OmegaConf.to_yaml(stored(config), resolve=True)


def unresolved(error: OmegaConfBaseException, prefix: str = "") -> UserError:
    """Return how the user can fix a value that OmegaConf does not give.

    Args:
        error: what it raised.
        prefix: goes before the key.
    """
    key = prefix + (getattr(error, "full_key", None) or "")
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{key} is missing: give {key}=...")
    said = str(error).splitlines()[0]
    if found := _NOT_OF_A_KIND.match(said):
        return UserError(f"{key}={found['value']}: give {_KINDS[found['kind']]}")
    return UserError(f"{key}: {said}")


_NOT_OF_A_KIND = re.compile(
    r"Value '(?P<value>.*)' (of type '.*' could not be converted to|is not a valid) "
    r"(?P<kind>Integer|Float|bool)\b"
)
_KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
"""OmegaConf's words, and ours."""
_NAMED = ("data", "teacher", "student", "method", "temperature")
_BACKBONES = ("resnet18", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large")
"""Those of torchvision's classifiers whose detectors are listed among the options."""
_DETECTOR = "fasterrcnn_"
_DETECTORS = tuple(f"{_DETECTOR}{each}" for each in ("tiny", "small", *_BACKBONES))
"""The detectors among the options, named here because those who know them all take seconds."""


def _network_names() -> tuple[str, ...]:
    return (*models.names(), *_DETECTORS, "custom")


def _unlisted_detectors() -> list[str]:
    """Return the detectors over torchvision's classifiers, which are options but not listed."""
    from rlkd.models.detection import backbone_detector_names

    return backbone_detector_names()


def _register() -> None:
    """Give Hydra what is no file: resolvers, and a choice for each network."""
    OmegaConf.register_new_resolver("portion", portion)
    OmegaConf.register_new_resolver("probe_size", probe_size)
    OmegaConf.register_new_resolver("logits_over", logits_over)
    OmegaConf.register_new_resolver("start_over", start_over)
    OmegaConf.register_new_resolver("probe_interval", probe_interval)
    store = ConfigStore.instance()
    for name in _network_names():
        for group, keys in NETWORKS.items():
            named = {"name": None if name == "custom" else name}
            store.store(group=group, name=name, node=dict.fromkeys(keys) | named)


def _composed(name: str, given: Iterable[str], known_groups: Collection[str]) -> DictConfig:
    """Compose a configuration by name: what groups are set to, and then single settings."""
    folder, groups, settings = None, list[Override](), list[Override]()
    words, trusted = parted(given)
    for each in words:
        if each.key_or_group == "configs":
            folder = _own_groups(each)
        elif network := _network_from_elsewhere(each):
            groups.append(parse(f"{each.key_or_group}=custom"))
            settings[:0] = _settings_of(each.key_or_group, network)
        else:
            settings.append(each)
    for each in list(settings):
        own = folder is not None and (folder / each.key_or_group).is_dir()
        if each.key_or_group in known_groups or each.package is not None or own:
            _check_choice(each, options(each.key_or_group, folder))
            settings.remove(each)
            groups.append(each)
    chosen = [str(each.input_line) for each in groups]
    if folder is None:
        config = deepcopy(_packaged(name, tuple(chosen)))
    else:
        config = _compose(name, [f"hydra.searchpath=[{quoted(f'file://{folder}')}]", *chosen])
    trust(config, trusted, held_by=f"a file in configs={folder}")
    apply(config, settings)
    return config


@lru_cache(maxsize=64)
def _packaged(name: str, groups: tuple[str, ...]) -> DictConfig:
    """Compose what no file of the user's is part of, once: a sweep asks for it again and again."""
    return _compose(name, list(groups))


def _compose(name: str, overrides: list[str]) -> DictConfig:
    if not OmegaConf.has_resolver("portion"):
        _register()
    GlobalHydra.instance().clear()  # of a program of Hydra's that calls this one
    try:
        with initialize_config_module("rlkd.configs", version_base=None):
            composed = compose(name, overrides, return_hydra_config=True)
    except Exception as error:  # of a file of the user's, whatever Hydra, OmegaConf and YAML raise
        said = one_line(error)
        raise UserError(said) from error
    chosen = {group: composed.hydra.runtime.choices.get(group) for group in GROUPS}
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra")
    composed["chosen"] = chosen
    OmegaConf.set_struct(composed, True)
    return composed


def _own_groups(override: Override) -> Path:
    """Return the folder of groups of one's own that `configs=DIR` gives."""
    given = path_value("configs", override.value())
    folder = Path(os.path.realpath(given or ""))
    if given is None or not folder.is_dir():
        raise UserError(f"configs={given}: there is no such folder; give one of your groups")
    for path in sorted(folder.glob("*/*.yaml")):
        if path.parent.name in GROUPS and path.stem in options(path.parent.name):
            raise UserError(f"{path}: {path.stem} is packaged already; give it another name")
    return folder


def _network_from_elsewhere(override: Override) -> str | None:
    """Return the name of a network that is none of the options, if an override gives one."""
    name = override.value()
    if override.key_or_group not in NETWORKS or not isinstance(name, str):
        return None
    maybe = name.startswith(_DETECTOR) and name not in _network_names()
    return name if ":" in name or (maybe and name in _unlisted_detectors()) else None


def _settings_of(role: str, network: str) -> list[Override]:
    """Return what sets a role to a network; one of the Hub brings its weights and its images."""
    if not network.startswith(hub.PREFIX):
        return [parse(f"{role}.name={quoted(network)}")]
    found = hub.fetch(network)
    given = {"name": quoted(found.architecture), "checkpoint": quoted(str(found.checkpoint))}
    if role == "teacher":  # a student takes images as the data have them
        images = {"mean": found.mean, "std": found.std, "image_size": found.image_size}
        given |= {key: str([*value]) for key, value in images.items() if value is not None}
    return [parse(f"{role}.{key}={value}") for key, value in given.items()]


def _check_choice(override: Override, known: Collection[str]) -> None:
    value = override.value()
    if value in known or override.is_delete():
        return
    further = _unlisted_detectors() if override.key_or_group in NETWORKS else []
    hint = did_you_mean(value, [*known, *further]) if isinstance(value, str) else ""
    raise UserError(f"{override.input_line}: {hint}one of {', '.join(known)}")
