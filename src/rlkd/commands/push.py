"""A student where others find it: what `rlkd push` calls."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from rlkd.atomic import is_unfinished, whole
from rlkd.commands.export import export
from rlkd.config.options import LOCK_CHOICES
from rlkd.engine.finished_run import own_words
from rlkd.engine.lock import LOCK, locked
from rlkd.errors import UserError
from rlkd.models import hub
from rlkd.regular_files import file_sha256
from rlkd.reporting.escaping import say
from rlkd.text_files import read_json, read_text, write_text

_CARD = "README.md"
FILES = (hub.WEIGHTS, hub.CONFIG, _CARD, hub.SUMS)
"""What is published, and nothing else."""
_KEPT = ("task", "architecture", "class_names", "readable_names", "input", "output", "options")
"""Of the facts of an exported file."""


def push(overrides: Iterable[str] = (), *, console: Console | None = None) -> str:
    """Publish a student on the Hugging Face Hub, or write what would be published to a folder.

    Its weights as safetensors, which were read back and answer as the student does; `config.json`,
    with the network's name, its classes and how it wants its images; a model card; and the SHA-256
    of these three. `teacher=hf://user/name` and `student=hf://user/name` take it from there.

    Args:
        overrides: `to=hf://user/name` or `to=FOLDER`, new, empty or of an earlier push; the student
            as for `export`. A repository that is not there is made, as public as the account makes
            them; a private one that is there stays so.
        console: where to say what was written; None for standard output.

    Returns:
        The address that pins what was published, `hf://user/name@COMMIT`; or the folder.

    Raises:
        UserError: for what the user can fix.
    """
    words, others = own_words(overrides, ("to",))
    if "to" not in words:
        raise UserError("to is missing: give to=hf://user/name, or to=FOLDER")
    to, console = words["to"], console or Console()
    with ExitStack() as held:
        public = to.startswith(hub.PREFIX)
        if not public:
            _require_ours(Path(to))
            held.enter_context(locked(Path(to), LOCK_CHOICES[0], console))
        elif hub.parse(to)[1] is not None:
            raise UserError(f"to={to}: a push makes a revision of its own: leave @ out")
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="rlkd-push-")))
        quiet = Console(quiet=True)
        export([*others, "format=safetensors", f"to={folder / hub.WEIGHTS}"], console=quiet)
        _describe(folder)
        written = _uploaded(folder, to) if public else _copied(folder, Path(to))
    say(console, f"{written}: {', '.join(FILES)}")
    return written


def _describe(folder: Path) -> None:
    """Put config.json and SHA256SUMS where an export has left weights, facts and a card."""
    path = folder / f"{hub.WEIGHTS}.json"
    facts: dict[str, Any] = read_json(path, "try again")
    path.unlink()
    card = folder / _CARD
    text = read_text(card, "try again").replace(f"`{path.name}`", f"`{hub.CONFIG}`")
    write_text(card, text)
    config: dict[str, Any] = {"library_name": hub.LIBRARY}
    config |= {key: facts[key] for key in _KEPT if key in facts}
    config["num_classes"] = len(facts["class_names"])
    if facts["task"] == "classification":
        given = facts["input"]
        config |= {"image_size": given["shape"][2:], "mean": given["mean"], "std": given["std"]}
    config["versions"] = facts["versions"]
    write_text(folder / hub.CONFIG, json.dumps(config, indent=1) + "\n")
    sums = "".join(f"{file_sha256(folder / each)}  {each}\n" for each in FILES[:-1])
    write_text(folder / hub.SUMS, sums)


def _require_ours(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier push.

    Raises:
        UserError: if it does.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"to={folder}: is a file; give a folder, or hf://user/name")
    ours = {*FILES, LOCK} if (folder / hub.SUMS).is_file() else {LOCK}
    there = list(folder.iterdir()) if folder.is_dir() else []
    foreign = [each.name for each in there if each.name not in ours and not is_unfinished(each)]
    if foreign:
        raise UserError(
            f"to={folder}: holds {min(foreign)}, which no push wrote; give a folder of its own"
        )


def _copied(made: Path, folder: Path) -> str:
    for name in reversed(FILES):  # by the sums, which come first, a push that was killed is known
        with whole(folder / name) as unfinished:
            shutil.copyfile(made / name, unfinished)
    return str(folder)


def _uploaded(made: Path, address: str) -> str:
    repository, _ = hub.parse(address)
    with hub.answering(address) as library:
        client = library.HfApi()
        client.create_repo(repository, exist_ok=True)
        files = [
            library.CommitOperationAdd(path_in_repo=name, path_or_fileobj=made / name)
            for name in FILES
        ]
        commit = client.create_commit(repository, files, commit_message="rlkd push")
    return f"{address}@{commit.oid}"
