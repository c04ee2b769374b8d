"""The pages of the site: every link resolves, and what is made from the code is all there.

None of this needs Sphinx; `make docs` builds the pages, and fails on what it warns of.
"""

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from docs import generated, picture
from markdown_it import MarkdownIt
from markdown_it.token import Token
from omegaconf import OmegaConf

from rlkd.commands import VERBS
from rlkd.config.compose import GROUPS, LAUNCHER, configure, options, sweep
from rlkd.config.settings import NETWORKS
from rlkd.errors import UserError
from rlkd.sweep.study import read_study

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "src" / "rlkd" / "configs"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("docs/*.ipynb"),
        *ROOT.glob("benchmarks/**/*.md"),
    ]
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


@cache
def text_of(path: Path) -> str:
    """Return the Markdown of a page, with what is added to it when the site is built."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    made = [make() for page, make in generated.PAGES.items() if ROOT / f"{page}.md" == path]
    return "\n".join([text, *made])


def tokens_of(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def links_in(text: str) -> Iterator[str]:
    for token in tokens_of(text):
        for each in token.children or ():
            target = each.attrGet("href") or each.attrGet("src")
            if target is not None:
                yield str(target)
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.M | re.S):
        for line in block.splitlines():
            entry = re.sub(r".*<(.*)>$", r"\1", line.strip())
            if entry and not entry.startswith(":"):
                yield f"toctree:{entry}"


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the words of each `rlkd VERB ...` of a page's blocks of code."""
    for token in tokens_of(text):
        if token.type in ("code_block", "fence") and token.info in ("", "sh"):
            for line in token.content.replace("\\\n", " ").splitlines():
                if line.startswith("rlkd "):
                    yield [each for each in shlex.split(line, comments=True) if each != "..."]


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    tokens, found = tokens_of(text), set[str]()
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            plain = "".join(each.content for each in token.children or ())
            found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


def fault(link: str, page: Path) -> str | None:
    """Return what is wrong with a link of a page; None where nothing is."""
    if re.match(r"(https?|mailto):", link):
        return None
    if link.startswith("toctree:"):
        place = page.parent / link.removeprefix("toctree:")
        found = any(Path(f"{place}{suffix}").is_file() for suffix in (".md", ".ipynb"))
        return None if found else f"{link}: no such page"
    file, _, anchor = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    if not target.exists():
        return f"{link}: no such file"
    if anchor and anchor not in anchors_of(text_of(target)):
        return f"{link}: no such heading"
    return None


@pytest.mark.parametrize("page", NAMES)
def test_every_link_of_a_page_resolves(page: str) -> None:
    path = ROOT / page
    assert [each for link in links_in(text_of(path)) if (each := fault(link, path))] == []


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three\n\n[a](#one-two-three) [b](#one) [c](gone.md) ![d](e.svg)")
    found = [fault(link, page) for link in links_in(page.read_text())]
    assert found == [
        None,
        "#one: no such heading",
        "gone.md: no such file",
        "e.svg: no such file",
    ]
    assert fault("toctree:gone", page) == "toctree:gone: no such page"


@pytest.mark.parametrize("page", [name for name in NAMES if name != "docs/adding.md"])
def test_the_settings_of_every_command_compose(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    for written in re.findall(r"^```yaml\n(arms:.*?)^```", text, re.DOTALL | re.MULTILINE):
        Path("arms.yaml").write_text(written)  # as the page calls it
    for _, verb, *words in commands_in(text):
        studies = [each.partition("=")[2] for each in words if each.startswith("study=")]
        if studies:
            assert read_study(studies[0]).arms
        elif verb in ("distill", "train", "compare") and "VERB" not in words:
            words = [each for each in words if "=hf://" not in each]  # which are looked up
            of_sweep = ("baseline=", "jobs=", "launcher", "--multirun")
            swept, single = sweep([each for each in words if not each.startswith(of_sweep)])
            configure([*single, *(f"{key}={values[0]}" for key, values in swept.items())])


def test_commands_are_found_and_a_wrong_one_is_refused() -> None:
    found = list(commands_in("    rlkd train a=1 \\\n        b=2  # c\n\n```text\nrlkd no\n```\n"))
    assert found == [["rlkd", "train", "a=1", "b=2"]]
    with pytest.raises(UserError, match="trainer"):
        configure(["trainer.epoch=3"])


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = {
        (path.parent / link.removeprefix("toctree:")).resolve()
        for path in PAGES
        for link in links_in(text_of(path))
        if link.startswith("toctree:")
    }
    left_out = {ROOT / "README", ROOT / "docs" / "index"}
    assert {path.with_suffix("") for path in PAGES} - left_out == listed


def test_every_verb_has_its_help() -> None:
    text = text_of(ROOT / "docs" / "commands.md")
    for verb, (_, words) in VERBS.items():
        assert f"## rlkd {verb}\n" in text
        for line in words.splitlines():
            assert line.strip() in text


def settings_shown() -> str:
    return text_of(ROOT / "docs" / "settings.md") + text_of(ROOT / "docs" / "choices.md")


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_every_setting_of_a_run_is_on_a_page(task: str) -> None:
    config = configure([f"task={task}"])
    keys = set(leaves(OmegaConf.to_container(config, resolve=False)))
    keys = {key for key in keys if not key.startswith(("chosen.", "method."))}
    assert "trainer.batch_size" in keys
    text = settings_shown()
    # A mapping on one line is shown whole, by the name that it has.
    missing = [
        key
        for key in keys
        if key.rpartition(".")[2] != "_partial_"
        and not any(f"`{part}`" in text for part in (key, *parents(key)))
    ]
    assert missing == []


def leaves(node: object, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path


def parents(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[:n]) for n in range(len(parts) - 1, 1, -1))


def test_every_choice_and_every_network_is_on_a_page() -> None:
    text = settings_shown()
    for group in (*GROUPS, LAUNCHER):
        for name in options(group):
            if name not in ("custom", "none"):
                shown = f"`{name}`" if group in NETWORKS else f"### {group}={name}\n"
                assert shown in text, shown
    for role, keys in NETWORKS.items():
        assert [key for key in keys if f"`{role}.{key}`" not in text] == []


def test_a_setting_is_read_with_its_comment(tmp_path: Path) -> None:
    path = tmp_path / "data" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(
        "# Mine.\n_target_: rlkd.data.datasets.digits\nlimit: null\n"
        "mean: [0.5] # of | each\n# Of pixels.\nname: 'a # b'\ndeep:\n  flow: {a: 1, b: [2]}\n"
    )
    assert list(generated.rows(path)) == [
        ("data._target_", "rlkd.data.datasets.digits", ""),
        (
            "data.limit",
            "null",
            "how many training images to keep, stratified, always the same; None for all.",
        ),
        ("data.mean", "[0.5]", "of | each. Of pixels."),
        ("data.name", "'a # b'", ""),
        ("data.deep.flow", "{a: 1, b: [2]}", ""),
    ]


def test_every_room_with_public_names_has_a_page_of_the_api() -> None:
    rooms = {
        path.parent.name
        for path in (ROOT / "src" / "rlkd").glob("*/__init__.py")
        if "__all__" in path.read_text(encoding="utf-8")
    }
    assert {"agent", "losses"} <= rooms
    assert rooms - {path.stem for path in (ROOT / "docs" / "api").glob("*.md")} == set()


def test_the_picture_shows_what_the_data_say() -> None:
    shown = picture.PICTURE.read_text(encoding="utf-8")
    study = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert len(shown) < 100_000
    for each in picture.ROWS:
        row = picture.read(*each)
        assert row.name in shown
        assert row.words in shown
        difference, low, high = (
            f"{100 * each:+.2f}"
            for each in (row.difference.value, row.difference.low, row.difference.high)
            if each is not None
        )
        assert f"less {each[1]} | {len(each[2])} | {difference} | {low} to {high} |" in study
