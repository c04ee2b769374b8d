"""What every medium shows of a hostile text, read back by a reader that is not ours."""

import ast
import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from math import isfinite
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console
from tests.hostile.nasty import NASTY

import rlkd
from rlkd.reporting import Result
from rlkd.reporting.escaping import (
    csv_text,
    markdown,
    markdown_code,
    one_line,
    printable,
    say,
)
from rlkd.reporting.pages import (
    comparison_csv,
    comparison_html,
    comparison_markdown,
    comparison_runs_csv,
    comparison_table,
)
from rlkd.reporting.statistics.comparison import Cell, Comparison, compare_cells
from rlkd.reporting.tables import caption, notes, table_words
from rlkd.text_files import write_text

MakeResult = Callable[..., Result]
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters(), min_size=1))
EACH = pytest.mark.parametrize("name", NASTY)
anything = settings(deadline=None, derandomize=True, max_examples=80)
FORMULA = tuple("=+-@\t\r\n")


def parsed(source: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source)


def plain(inline: Token) -> str:
    """What a line of Markdown shows, which holds nothing but text and code."""
    children = inline.children or []
    assert {each.type for each in children} <= {"text", "text_special", "code_inline"}
    return "".join(each.content for each in children)


def table_of(source: str) -> list[list[str]]:
    """The cells of the one table of a page of Markdown."""
    rows: list[list[str]] = []
    inside = False
    for token in parsed(source):
        inside = (inside or token.type == "table_open") and token.type != "table_close"
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and inside:
            rows[-1].append(plain(token))
    return rows


def csv_rows(source: str) -> list[list[str]]:
    """The cells as whoever wrote them had them, having seen that none is a formula."""
    rows = list(csv.reader(io.StringIO(source, newline="")))
    for cell in (cell for row in rows for cell in row):
        assert not cell.lstrip().startswith(FORMULA) or isfinite(float(cell)), cell
    return [[cell[1:] if cell.startswith("'") else cell for cell in row] for row in rows]


class Page(HTMLParser):
    """The tags of a page, and the text of its cells."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.inside = False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.inside = tag in ("td", "th")
        if self.inside:
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = False


def shown_in_html(name: str) -> str:
    return "\n".join(map(printable, name.split("\n")))


@anything
@given(TEXTS)
def test_a_line_has_nothing_that_is_not_seen(name: str) -> None:
    shown = printable(name)
    assert len(shown.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert shown.encode()
    if "\\" not in name:
        back = re.sub(r"\\(u....|x..|[nrt])", lambda e: ast.literal_eval(f"'{e[0]}'"), shown)
        assert back == name


@anything
@given(TEXTS)
def test_markdown_shows_the_text_in_every_place_of_a_page(name: str) -> None:
    shown = printable(name).strip()
    for before in ("", "- ", "# "):
        blocks = parsed(f"{before}{markdown(name)}\n\nend")
        kinds = {"": "paragraph", "- ": "bullet_list", "# ": "heading"}
        assert blocks[0].type == f"{kinds[before]}_open" or not shown
        if shown:
            assert {each.tag for each in blocks} <= {"p", "ul", "li", "h1", ""}
            assert [plain(each).strip() for each in blocks if each.type == "inline"] == [
                shown,
                "end",
            ]


@anything
@given(TEXTS)
def test_markdown_shows_the_text_as_code(name: str) -> None:
    opened, inline, closed = parsed(markdown_code(f"rlkd {name}"))
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    assert [(each.type, each.content) for each in inline.children or []] == [
        ("code_inline", f"rlkd {printable(name)}")
    ]


@anything
@given(TEXTS)
def test_csv_gives_back_the_text_and_no_formula(name: str) -> None:
    assert csv_rows(csv_text([[name, "x"], ["y", name]])) == [[name, "x"], ["y", name]]


def test_numbers_stay_numbers_in_csv() -> None:
    assert csv_text([[-1.5, "-1.5", "+2e-3", 0, None, float("nan"), "-x", "-1-1"]]) == (
        "-1.5,-1.5,+2e-3,0,,,'-x,'-1-1\n"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@EACH
def test_a_terminal_gets_one_line_in_its_own_letters(name: str, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    say(Console(file=stream, width=20, force_terminal=True), name)
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    expected = printable(name).encode(encoding, "backslashreplace") + b"\n"
    assert stream.buffer.getvalue() == expected


def test_a_message_in_lines_is_one() -> None:
    assert one_line("a:\n\tmissing  'x  y'\r\n  \x1b[1mz ") == "a: missing  'x  y' \\x1b[1mz"


@EACH
def test_a_page_has_the_text_and_no_tag_of_it(name: str) -> None:
    empty, full = (
        comparison_html(compare_cells([Cell({each: each}, 0)]), title=each, command=each)
        for each in ("x", name)
    )
    assert Page(full).tags == Page(empty).tags
    assert Page(full).cells[0] == shown_in_html(name)


@EACH
def test_a_file_has_the_text_whatever_it_is(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", json.dumps(name, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == name
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_bytes() == name.encode(errors="backslashreplace")


@pytest.fixture
def comparison(make_result: MakeResult, request: pytest.FixtureRequest) -> Comparison:
    """Two combinations whose key, value, folder, machine and failure are one hostile text."""
    name = request.param
    told = replace(make_result(seed=0), hardware=name, versions={name: name})
    return compare_cells(
        [
            Cell({name: "first"}, 0, told, folder=name),
            Cell({name: name}, 0, make_result(seed=0), folder=name),
            Cell({name: name}, 1, failure=name, folder=name),
        ]
    )


@pytest.mark.parametrize("comparison", NASTY, indirect=True)
def test_a_comparison_has_the_same_cells_in_every_medium(comparison: Comparison) -> None:
    words = table_words(comparison)
    said = [caption(comparison), *notes(comparison)]
    cells = [words.header, *words.rows]
    source = comparison_markdown(comparison)
    assert table_of(source) == [[printable(each).strip() for each in row] for row in cells]
    inline = [plain(each).strip() for each in parsed(source) if each.type == "inline"]
    assert inline[-len(said) :] == [printable(each).strip() for each in said]
    by_row = [list(row.labels.values()) for row in comparison.rows]
    assert [row[:1] for row in csv_rows(comparison_csv(comparison))[1:]] == by_row
    runs = csv_rows(comparison_runs_csv(comparison))
    assert {len(row) for row in runs} == {len(runs[0])}
    assert {row[-1] for row in runs[1:]} == {cell.folder for cell in comparison.cells}
    html = Page(comparison_html(comparison, title=said[0], command=said[0]))
    flat = [shown_in_html(each) for row in cells for each in row]
    assert html.cells[: len(flat)] == flat
    console = Console(file=io.StringIO(), width=4000)
    console.print(comparison_table(comparison, title="t"))
    assert isinstance(console.file, io.StringIO)
    _, _, _, *lines = console.file.getvalue().split("\n")
    told = lines[: len(words.rows)]
    assert [each.split() for each in told] == [
        " ".join(map(printable, row)).split() for row in words.rows
    ]
    under = "".join("".join(lines[len(words.rows) :]).split())
    assert under == "".join("".join(map(printable, said)).split())


def test_every_line_and_every_table_goes_through_one_door() -> None:
    doors = {"escaping.py", "tables.py"}
    sources = [each for each in Path(rlkd.__file__).parent.rglob("*.py") if each.name not in doors]
    past = re.compile(r"csv\.writer|\.print\((?!comparison_table\()|markup=|' \| '\.join")
    found = {each.name: past.findall(each.read_text(encoding="utf-8")) for each in sources}
    assert {name: each for name, each in found.items() if each} == {"verbs.py": [".print("]}
