"""Pages of the site that are made from the code when it is built, so that they cannot go stale.

`PAGES` maps a page, whose own file has its title and an introduction, to what is added to it.
"""

import inspect
import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

import yaml
from hydra.utils import get_object

import rlkd
from rlkd.cli import main
from rlkd.commands import VERBS
from rlkd.config.compose import GROUPS, LAUNCHER, options
from rlkd.config.settings import NETWORKS, OF_A_PART

CONFIGS = Path(rlkd.__file__).parent / "configs"
_AS_THEY_STAND = ("method", "experiment")
"""Groups whose files read best whole."""
_REST = {"rlkd.TemperatureAgent": "rlkd.agent.Learner"}
"""Parts that take the arguments of another as well."""
Row = tuple[str, str, str]
"""A setting, what it is set to, and what is known about it."""


def commands() -> str:
    """Return the help of every verb, as a terminal shows it."""
    parts = [f"```text\n{_help()}```"]
    for verb, (_, text) in VERBS.items():
        parts.append(f"## rlkd {verb}\n\n{text.partition(chr(10))[0]}\n\n```text\n{_help(verb)}```")
    return "\n\n".join(parts)


def settings() -> str:
    """Return the settings of every run, and what the two networks may be."""
    names = [f"`{name}`" for name in options("teacher") if name not in ("custom", "none")]
    return "\n\n".join(
        [
            "## Networks by name",
            ", ".join(names),
            "## Every run",
            "`configs/config.yaml`, which choices add to:",
            _table(rows(CONFIGS / "config.yaml")),
        ]
    )


def choices() -> str:
    """Return every choice of every group, with the settings that it brings."""
    parts: list[str] = []
    for group in (*GROUPS, LAUNCHER):
        files = sorted((CONFIGS / group).glob("*.yaml"))
        if group not in NETWORKS:
            parts.append(f"## {group}")
            parts += [f"### {group}={path.stem}\n\n{_choice(path)}" for path in files]
    return "\n\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "docs/commands": commands,
    "docs/settings": settings,
    "docs/choices": choices,
}


def rows(path: Path) -> Iterator[Row]:
    """Read the settings of a file of configs/, each with its comment.

    A setting without a comment gets the words of the docstring of what it is an argument of.
    """
    text = path.read_text(encoding="utf-8")
    whole = path.parent == CONFIGS or text.startswith("# @package _global_")
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from _rows(root, "" if whole else f"{path.parent.name}.", text)


def _rows(node: yaml.MappingNode, prefix: str, text: str) -> Iterator[Row]:
    values = {key.value: value for key, value in node.value}
    target = values.get("_target_")
    known = {} if target is None else arguments_of(target.value)
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value == "defaults":
            yield from _defaults(value)
        elif isinstance(value, yaml.MappingNode) and not value.flow_style:
            note = _comment(text, key.end_mark.index + 1)
            if note:
                yield (name, "", note)
            yield from _rows(value, f"{name}.", text)
        elif key.value not in OF_A_PART[1:]:
            shown = " ".join(text[value.start_mark.index : value.end_mark.index].split())
            if isinstance(value, yaml.SequenceNode) and not value.flow_style:
                shown = f"[{', '.join(each.value for each in value.value)}]"
            note = _comment(text, value.end_mark.index)
            yield (name, shown, note or known.get(key.value, ""))


def _defaults(chosen: yaml.SequenceNode) -> Iterator[Row]:
    for each in chosen.value:
        if isinstance(each, yaml.MappingNode):
            ((group, choice),) = each.value
            yield (group.value.removeprefix("override /"), choice.value, "")
        elif each.value != "_self_":
            yield ("", each.value, "what this one starts from")


def _comment(text: str, index: int) -> str:
    """Return the comment behind a place of a file, and the lines of comment that follow."""
    found = re.match(r"[ \t]*#(.*(?:\n *#.*)*)", text[index:])
    lines = [] if found is None else [each.strip(" #") for each in found[1].splitlines()]
    return ". ".join(lines)


def arguments_of(name: str) -> dict[str, str]:
    """Return what the docstring of a part says of its arguments, by their names."""
    found = dict[str, str]() if name not in _REST else arguments_of(_REST[name])
    text = inspect.getdoc(get_object(name)) or ""
    section = re.search(r"^Args:\n((?: .*\n?|\n)*)", text, re.M)
    listed = section[1] if section else ""
    for names, words in re.findall(r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", listed, re.M):
        if not words.startswith("see `"):
            found |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    return found


def _choice(path: Path) -> str:
    if path.parent.name in _AS_THEY_STAND:
        return f"```yaml\n{path.read_text(encoding='utf-8')}```"
    head = re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))
    lines = [] if head is None else [line[1:].strip() for line in head[0].splitlines()]
    words = [line for line in lines if line != "@package _global_"]
    return "\n\n".join([_plain(" ".join(words)), _table(rows(path))])


def _table(found: Iterator[Row]) -> str:
    lines = ["| setting | value | |", "|---|---|---|"]
    for name, value, note in found:
        cells = (f"`{name}`" if name else "", f"`{value}`" if value else "", _plain(note))
        lines.append("| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |")
    return "\n".join(lines)


def _plain(words: str) -> str:
    """Return a comment as Markdown that shows what it says; code in backticks stays code."""
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(
        each if index % 2 else re.sub(r"([\\*_\[\]<>$])", r"\\\1", each)
        for index, each in enumerate(parts)
    )


def _help(*verb: str) -> str:
    said = io.StringIO()
    with redirect_stdout(said):
        main([*verb, "--help"])
    return said.getvalue()
