"""Public teachers, where they are and what was published of them: what `rlkd teachers` calls."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import yaml
from rich.console import Console

from rlkd.errors import UserError
from rlkd.reporting.escaping import say

FILE = "known_teachers.yaml"
"""In the package's configs; its head says what its fields are."""


def teachers(words: Sequence[str] = (), console: Console | None = None) -> None:
    """List public teachers, collection by collection, each figure quoted from the source shown.

    Args:
        words: networks or data sets, such as resnet56 or cifar100; all without any.
        console: where to print; None for standard output.

    Raises:
        UserError: if there is none of these.
    """
    console = console or Console()
    wanted = {each.lower() for each in words}
    listed = 0
    for collection in known():
        rows = [each for each in collection["teachers"] if wanted <= _names(collection, each)]
        if not rows:
            continue
        say(console, f"{collection['collection']} ({collection['data']}): {collection['state']}")
        say(console, f"  quoted from {collection['source']}; use: {collection['use']}")
        width = max(len(each["network"]) for each in rows)
        for each in rows:
            name = each["network"].ljust(width)
            say(console, f"  {name}  {_figure(each)}  {_sha256(each)}  {each['where']}")
        listed += len(rows)
    if not listed:
        raise UserError(f"no teacher is known for {' '.join(words)}: see `rlkd teachers`")


def known() -> list[dict[str, Any]]:
    """Return the collections, as the file holds them."""
    return yaml.safe_load(files("rlkd.configs").joinpath(FILE).read_text(encoding="utf-8"))


def _names(collection: dict[str, Any], teacher: dict[str, Any]) -> set[str]:
    network = teacher["network"].lower()
    bare = network.partition(":")[2] or network
    return {network, bare, bare.partition(".")[0], collection["data"]}


def _figure(teacher: dict[str, Any]) -> str:
    name, value = next((key, teacher[key]) for key in ("top1", "ap") if key in teacher)
    return f"{name} {'?' if value is None else f'{value:.2f} %'}".ljust(12)


def _sha256(teacher: dict[str, Any]) -> str:
    return f"SHA-256 {teacher['sha256'] or '?'}".ljust(16)
