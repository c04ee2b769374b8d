"""Single settings of a configuration: which there are, what reads them, and setting them."""

import inspect
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.resources import files
from inspect import Parameter
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, cast, get_args

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from rlkd.config.overrides import PATHS, path_value
from rlkd.errors import NoSettingError, UserError, did_you_mean
from rlkd.trust import TRUST, found, require_trusted

NETWORKS = {
    "teacher": (
        *("name", "checkpoint", "mean", "std", "image_size", "classes"),
        *("cache", "cache_dtype", "also", "weight"),
    ),
    "student": ("name", "checkpoint", "head", "freeze"),
}
"""The settings of each of the two networks."""


def asks_for_store(cache: object) -> bool:
    """Return whether a value of `teacher.cache` asks for a store; null and false do not."""
    return str(cache).lower() not in ("none", "false")


_NAMES = tuple(f"{role}.name" for role in NETWORKS)
_ELSEWHERE = {
    **dict.fromkeys(("max_epochs", "num_epochs"), "trainer.epochs"),
    **dict.fromkeys(("device", "devices"), "trainer.accelerator"),
    **dict.fromkeys(("learning_rate", "lr"), "optimizer.lr"),
    **dict.fromkeys(("path", "dir", "data_dir"), "data.root"),
    "num_workers": "data.workers",
}
"""What other programs call some settings."""
PACKAGED = Path(str(files("rlkd.configs")))
"""The folder of the packaged groups."""
_ANYTHING = Parameter("anything", Parameter.VAR_KEYWORD)
OF_A_PART = ("_target_", "_partial_")
"""What a node says of how it is made; everything else is a value."""


def apply(config: DictConfig, overrides: Iterable[Override]) -> None:
    """Set, add or remove what overrides say, in order.

    Args:
        config: a composed configuration, which is changed.
        overrides: of one value each. One may add what another, before or after it, refers to.

    Raises:
        UserError: if there is no such setting (with the nearest there is), nothing reads one that
            is added with `+`, it has settings of its own, or its value is impossible.
    """
    given = list(overrides)
    references = "\n".join(str(each.input_line) for each in given)
    for each in given:
        _apply(config, each, references)


def trust(config: DictConfig, trusted: Collection[str], *, held_by: str) -> None:
    """Note in a configuration which packages the user trusts; see `stored`, which leaves it out.

    Args:
        config: a configuration, which is changed.
        trusted: the packages, of the command line.
        held_by: where the configuration comes from, for messages.

    Raises:
        UserError: if the configuration itself says whom to trust.
    """
    if TRUST in config:
        raise UserError(
            f"{held_by} holds {TRUST}, which is given on the command line alone: remove it there"
        )
    if trusted:
        with open_dict(config):
            config[TRUST] = OmegaConf.create(list(trusted), flags={"readonly": True})


def trusted_by(config: DictConfig) -> Collection[str]:
    """Return the packages that the user of a configuration trusts."""
    return config.get(TRUST) or ()


def stored(config: DictConfig) -> DictConfig:
    """Return a configuration as it is stored, in a run folder or elsewhere: it trusts nobody."""
    return OmegaConf.masked_copy(config, [str(each) for each in config if each != TRUST])


def require_allowed(config: DictConfig) -> None:
    """Refuse a configuration that names code of somebody whom the user does not trust.

    It is the first look, before anything is loaded: `parts.make` and the networks' factories see to
    it that nothing else is called.

    Raises:
        UserError: naming the first.
        OmegaConfBaseException: for a value that refers to what is not there.
    """
    for key in _keys(config):
        if key.rpartition(".")[2] != "_target_" and key not in _NAMES:
            continue
        value = OmegaConf.select(config, key)
        if key not in _NAMES:
            module = str(value).rpartition(".")[0]
        elif value is None or (isinstance(value, str) and ":" not in value):
            continue
        elif isinstance(value, str):
            module = value.partition(":")[0]
        else:
            raise UserError(f"{key}={value}: give the name of a network, such as resnet20")
        require_trusted(str(value), module, trusted_by(config), where=key)


def expand_paths(config: DictConfig) -> None:
    """Put the home folder in place of `~` in all paths of a configuration.

    A number stays one where it is for data that read no text there.

    Raises:
        UserError: for a value that is no path; see `path_value`.
        OmegaConfBaseException: for one that refers to what is not there.
    """
    for key in PATHS:
        parent, _, name = key.rpartition(".")
        node = _section(config, parent) if parent else config
        if node is None or name not in node or OmegaConf.is_missing(node, name):
            continue
        value = node[name]
        if (
            parent == "data"
            and isinstance(value, int | float)
            and not _is_text(_taker(config, key))
        ):
            continue  # somebody's own data may read a number there
        made = path_value(key, value)
        if made is not value:
            node[name] = made


def require_places(config: DictConfig) -> None:
    """Refuse data or weights that are not where they should be, before what reads them is imported.

    It is the first look: what is there may still be damaged, or lack what a run needs.

    Raises:
        UserError: naming the path. Somebody's own data may mean anything by their root.
    """
    data = config.data
    root = data.get("root") if str(data.get("_target_")).startswith("rlkd.") else None
    if root is not None and not data.get("download") and not os.path.isdir(str(root)):
        or_else = ", or give data.download=true" if "download" in data else ""
        raise UserError(f"no folder {os.path.abspath(str(root))}: fix data.root{or_else}")
    for path in (config[role].get("checkpoint") for role in NETWORKS):
        try:
            if path is not None:
                os.stat(str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; give the path of a checkpoint") from None
        except (OSError, ValueError):
            continue  # said by what reads it


def flat(held: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a configuration, as a container, by their whole keys."""
    for key, value in held.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _apply(config: DictConfig, override: Override, references: str) -> None:
    key = override.key_or_group
    if override.package is not None:
        raise UserError(f"{override.input_line}: there is no group {key}")
    try:
        if override.is_delete():
            _remove(config, key)
        else:
            _set(config, key, override.value(), override, references)
    except UserError:
        raise
    except Exception as error:  # of a value nested too deep, say, what Python raises
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{override.input_line}: {line}") from error


def _set(config: DictConfig, key: str, value: Any, override: Override, references: str) -> None:
    section = _section(config, key)
    if section is not None:
        if not isinstance(value, dict):
            raise UserError(
                f"{override.input_line}: {key} is a section; give single settings of it, such as "
                f"{key}.{next(iter(section), '...')}=..."
            )
        for name, each in value.items():
            _set(config, f"{key}.{name}", each, override, references)
        return
    taker = _taker(config, key)
    if isinstance(value, bool) and _is_number(taker):
        raise UserError(f"{override.input_line}: give a number")
    if isinstance(value, int | float) and _is_text(taker):
        value = override.get_value_string() if key == override.key_or_group else str(value)
    try:
        OmegaConf.update(config, key, value)
    except (ConfigAttributeError, ConfigKeyError):
        if not (override.is_add() or override.is_force_add()):
            raise _absent(config, key) from None
        if taker is None and not _is_read_by_name(config, key, references):
            raise UserError(f"nothing reads {key}: {_hint(config, key)}") from None
        OmegaConf.update(config, key, value, force_add=True)


def _remove(config: DictConfig, key: str) -> None:
    parent, _, name = key.rpartition(".")
    node = _section(config, parent) if parent else config
    if node is None or name not in node:
        raise _absent(config, key)
    with open_dict(node):
        del node[name]


def _absent(config: DictConfig, key: str) -> UserError:
    if _taker(config, key) not in (None, _ANYTHING):
        return UserError(f"there is no setting {key} yet: give +{key}=... to add it")
    return NoSettingError(key, _hint(config, key))


def _hint(config: DictConfig, key: str) -> str:
    above, parameters = _made_of(config, key)
    sections = (accumulate(each.split("."), "{}.{}".format) for each in _keys(config))
    known = {*chain.from_iterable(sections), *(f"{above}.{name}" for name in parameters or ())}
    internal = {"chosen", *OF_A_PART}
    given = [each for each in sorted(known) if internal.isdisjoint(each.split("."))]
    name = key.rpartition(".")[2]
    alike = [each for each in given if each.rpartition(".")[2] == name]
    alike.sort(key=lambda each: not each.startswith("trainer."))
    meant = alike or [each for each in given if each == _ELSEWHERE.get(name)]
    hint = f"did you mean {meant[0]}? " if meant else _choice_with(key) or did_you_mean(key, given)
    return f"{hint}see them all with `rlkd show`"


def _choice_with(key: str) -> str:
    """Say which choices of a group, such as temperature=rlkd, have a setting; nothing if none."""
    group, _, name = key.partition(".")
    found: list[str] = []
    for path in sorted((PACKAGED / group).glob("*.yaml")):
        held = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(path)))
        of_group = held.get(group)  # of a file that sets others too
        if name in (of_group if isinstance(of_group, dict) else held):
            found.append(path.stem)
    have = "has" if len(found) == 1 else "have"
    return f"{group}={', '.join(found)} {have} it; " if found else ""


def _section(config: DictConfig, key: str) -> DictConfig | None:
    """Return the node of a key, if it is one with settings of its own."""
    node: Any = config
    for name in key.split("."):
        if not isinstance(node, DictConfig) or name not in node:
            return None
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            return None
        node = node[name]
    return node if isinstance(node, DictConfig) else None


def _made_of(config: DictConfig, key: str) -> tuple[str, Mapping[str, Parameter] | None]:
    """Return the key of the nearest `_target_` above a key, and the parameters of what it names.

    Returns:
        An empty key and no parameters where there is none; None for parameters that are not known.
    """
    above = key.rpartition(".")[0]
    while above:
        node = _section(config, above)
        if node is not None and "_target_" in node:
            try:
                return above, inspect.signature(_target(config, node)).parameters
            except Exception:  # reported when it is built
                return above, None
        above = above.rpartition(".")[0]
    return "", {}


def _target(config: DictConfig, node: DictConfig) -> Any:
    name = str(node["_target_"])
    module, _, attribute = name.rpartition(".")
    return found(name, module, attribute, trusted_by(config), where="_target_")


def _taker(config: DictConfig, key: str) -> Parameter | None:
    """Return the parameter that takes a setting, whether or not it is there; None for no such."""
    above, parameters = _made_of(config, key)
    name, _, below = key.removeprefix(f"{above}.").partition(".")
    if parameters is None or (above and name in OF_A_PART):
        return _ANYTHING
    if name in parameters:
        return _ANYTHING if below else parameters[name]
    return _ANYTHING if any(each.kind is _ANYTHING.kind for each in parameters.values()) else None


def _is_read_by_name(config: DictConfig, key: str, references: str) -> bool:
    """Return whether a setting is one of a network or a launcher, or another one refers to it."""
    section, _, name = key.partition(".")
    if name in NETWORKS.get(section, ()):
        return True
    # The options of a launcher are checked where they are read.
    return section == "launcher" or f"${{{key}}}" in OmegaConf.to_yaml(config) + references


def _is_text(taker: Parameter | None) -> bool:
    return _is_one_of(taker, {"str", "Path"}, but={"int", "float", "bool", "Any"})


def _is_number(taker: Parameter | None) -> bool:
    return _is_one_of(taker, {"int", "float"}, but={"bool", "Any"})


def _is_one_of(taker: Parameter | None, types: set[str], *, but: set[str]) -> bool:
    annotation: Any = None if taker is None else taker.annotation
    if isinstance(annotation, str):  # of a module that leaves its annotations unread
        kinds = {each.strip() for each in annotation.split("|")}
    else:
        members = get_args(annotation) or (annotation,)
        kinds = {getattr(each, "__name__", str(each)) for each in members}
    return not kinds.isdisjoint(types) and kinds.isdisjoint(but)


def _keys(config: DictConfig) -> Iterator[str]:
    held: Any = OmegaConf.to_container(config)
    return (key for key, _ in flat(held))
