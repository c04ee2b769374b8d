"""Networks on the Hugging Face Hub: what is downloaded is data, and is checked before it is used.

A repository holds `model.safetensors`, `config.json`, `SHA256SUMS` and a card. Nothing else of it
is fetched. Of another project, timm's repositories are read too, which name the network and its
normalisation likewise.
"""

import math
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from rlkd.atomic import FULL
from rlkd.errors import UserError, one_line
from rlkd.regular_files import file_sha256
from rlkd.text_files import read_json, read_text, shown

PREFIX = "hf://"
WEIGHTS, CONFIG, SUMS = "model.safetensors", "config.json", "SHA256SUMS"
"""The files of a repository that are read. The last has the format of coreutils."""
LIBRARY = "rlkd"
"""The `library_name` of a config.json that `rlkd push` wrote."""
_LARGEST = {WEIGHTS: 16 * 2**30, CONFIG: 4 * 2**20, SUMS: 2**16}
"""Bytes that each may have."""
_ADDRESS = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w][\w./-]*))?", re.ASCII)
_TIMEOUT_S = 30
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SUM = re.compile(r"^([0-9a-f]{64})  (\S+)$", re.MULTILINE)
_NAME = re.compile(r"(?:(?:torchvision|timm):)?\w[\w.]*", re.ASCII)
"""Names of networks without code of anybody else's."""


@dataclass(frozen=True)
class Published:
    """A network of the Hub, with its weights on this machine."""

    architecture: str
    """The network's name, see `create`."""
    checkpoint: Path
    """Its weights, in the cache of huggingface_hub, in a folder named by the commit."""
    mean: Sequence[float] | None
    """Of each channel, that it takes from pixels in [0, 1]; None where it is not said."""
    std: Sequence[float] | None
    """What it divides by then, of each channel."""
    image_size: Sequence[int] | None
    """Height and width in pixels; None where it is not said."""


def parse(address: str) -> tuple[str, str | None]:
    """Return the repository and the revision of an address, None for the newest.

    Args:
        address: `hf://user/name` or `hf://user/name@revision`: a branch, a tag or a commit.

    Raises:
        UserError: if it is neither.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise UserError(f"{address}: give hf://user/name, or hf://user/name@revision")
    return parts[1], parts[2]


@lru_cache(maxsize=32)
def fetch(address: str) -> Published:
    """Download a network's weights and configuration, or find them in the cache.

    Sizes are checked before the download, SHA-256 after it, each time: those in SHA256SUMS, and
    those that the Hub lists. Where the Hub cannot be reached, what an earlier call left is used.

    Args:
        address: see `parse`.

    Raises:
        UserError: if huggingface_hub is not installed, there is no such repository or file, a file
            is too large or not what was published, or the network is none that rlkd can make.
    """
    repository, revision = parse(address)
    with answering(address) as hub:
        try:
            client = hub.HfApi()
            info = client.model_info(
                repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
            )
        except Exception as error:  # whatever the client's HTTP library raises
            if isinstance(error, refusals(hub)):
                raise
            paths, sums = _cached(hub, repository, revision, address, error), {}
        else:
            paths, sums = _downloaded(hub, repository, revision, info, address)
    _check_sums(address, paths, sums)
    return _read(address, paths)


def refusals(hub: Any) -> tuple[type[Exception], ...]:
    """Return what huggingface_hub raises where the Hub knows no such thing, or shows it nobody."""
    known = hub.errors
    return known.RepositoryNotFoundError, known.RevisionNotFoundError, known.HFValidationError


@contextmanager
def answering(address: str) -> Generator[Any]:
    """Give huggingface_hub, and report what it raises in one line.

    Raises:
        UserError: for all of it.
    """
    try:
        hub = import_module("huggingface_hub")
        import_module("huggingface_hub.errors")
    except ImportError as error:
        raise UserError(
            f"{address} needs huggingface_hub ({error}): pip install huggingface_hub"
        ) from error
    try:
        yield hub
    except UserError:
        raise
    except refusals(hub) as error:
        raise UserError(
            f"{address}: the Hub has none such, or does not show it to you: look at the name and "
            "the revision, and log in with `hf auth login` where it is private"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise UserError(
            f"{address}: {one_line(error)[:200]}; see whether the Hub answers, and whether you may "
            "do this there (`hf auth login`)"
        ) from error


def _downloaded(
    hub: Any, repository: str, revision: str | None, info: Any, address: str
) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the files of a repository, and the SHA-256 that the Hub lists of those it knows."""
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise UserError(f"{address}: the Hub names no commit, but {shown(commit)}; try again later")
    listed = {each.rfilename: each for each in info.siblings or ()}
    for name in (WEIGHTS, CONFIG):
        if name not in listed:
            raise UserError(f"{address} has no {name}: give a repository that `rlkd push` made")
    paths: dict[str, Path] = {}
    for name, largest in _LARGEST.items():
        if name not in listed:
            continue
        size = listed[name].size
        if not isinstance(size, int) or size > largest:
            raise UserError(f"{address}: {name} has {size} bytes, above {largest:,}")
        paths[name] = Path(hub.hf_hub_download(repository, name, revision=revision))
        if paths[name].parent.name != commit:
            raise UserError(f"{address} was changed a moment ago: try again")
        found = paths[name].stat().st_size
        if found != size:
            raise UserError(
                f"{address}: {name} should have {size:,} bytes, and has {found:,}: remove "
                f"{paths[name].resolve()} and try again"
            )
    stored = {name: listed[name].lfs for name in paths if listed[name].lfs is not None}
    return paths, {name: str(each.sha256) for name, each in stored.items()}


def _cached(
    hub: Any, repository: str, revision: str | None, address: str, error: Exception
) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for name in _LARGEST:
        found = hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            paths[name] = Path(found)
    if not {WEIGHTS, CONFIG} <= paths.keys():
        raise UserError(
            f"{address}: the Hub cannot be reached ({one_line(error)[:200]}), and the network is "
            "not in this machine's cache: give the same command where there is a network first"
        ) from error
    return paths


def _check_sums(address: str, paths: Mapping[str, Path], listed: Mapping[str, str]) -> None:
    """Refuse files that have another SHA-256 than was published, or weights without one.

    Raises:
        UserError: naming the file.
    """
    text = read_text(paths[SUMS], "try again", limit=_LARGEST[SUMS]) if SUMS in paths else ""
    published = {name: sha256 for sha256, name in _SUM.findall(text)}
    for name in (CONFIG, WEIGHTS):
        # The cache names what the Hub stores by content so: by its SHA-256.
        blob = paths[name].resolve().name
        cached = blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None
        known = {each for each in (published.get(name), listed.get(name), cached) if each}
        if not known and name == WEIGHTS:
            raise UserError(f"{address} publishes no SHA-256 of {name}: push it again by rlkd")
        found = file_sha256(paths[name])
        if known - {found}:
            raise UserError(
                f"{address}: {name} is not what was published: its SHA-256 is {found[:16]}..., not "
                f"{min(known - {found})[:16]}...: remove {paths[name].resolve()} and try again"
            )


def _read(address: str, paths: Mapping[str, Path]) -> Published:
    remedy = "give a repository that `rlkd push` made"
    held = read_json(paths[CONFIG], remedy, limit=_LARGEST[CONFIG])
    of_timm: Any = held.get("pretrained_cfg") if isinstance(held, dict) else None
    said: dict[str, Any]
    if isinstance(of_timm, dict):
        size: Any = of_timm.get("input_size")
        size = size[1:] if isinstance(size, list) else None
        said = {**of_timm, "image_size": size, "architecture": f"timm:{held.get('architecture')}"}
    elif isinstance(held, dict) and held.get("library_name") == LIBRARY:
        said = held
    else:
        raise UserError(f"{address}: its config.json is neither rlkd's nor timm's; {remedy}")
    architecture = said.get("architecture")
    if not isinstance(architecture, str) or not _NAME.fullmatch(architecture):
        raise UserError(
            f"{address}: its network is {shown(architecture)}, which no code is downloaded for: "
            "give the network by name, and teacher.checkpoint=FILE or student.checkpoint=FILE"
        )
    numbers = {key: said.get(key) for key in ("mean", "std", "image_size")}
    for key, value in numbers.items():
        if value is not None and not _are_numbers(value):
            raise UserError(f"{address}: its {key} is {shown(value)}, not a list of numbers")
    return Published(architecture, paths[WEIGHTS], **numbers)


def _are_numbers(value: Any) -> bool:
    if not isinstance(value, list) or len(cast("list[Any]", value)) > 16:
        return False
    listed = cast("list[Any]", value)
    return all(type(each) in (int, float) and math.isfinite(each) for each in listed)
