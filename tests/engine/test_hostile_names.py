"""Names that would be obeyed if they were not escaped, through every verb; names that are none."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from tests.hostile.nasty import NASTY

from rlkd.cli import main
from rlkd.engine.class_names import FILE
from rlkd.errors import notice
from rlkd.reporting.escaping import printable

pytestmark = pytest.mark.usefixtures("plainly")

NAMES = [each.replace("/", "+") for each in NASTY if not re.search(r"[\0\ud800-\udfff]", each)]
OUTPUT = "[/b]x <script> |` =1 \x1b[31m\u202e $(x) [bold] :smile:"
TINY = (
    *("trainer.epochs=1", "trainer.batch_size=8", "trainer.threads=1", "trainer.accelerator=cpu"),
    *("student=convnet_tiny", "data=folder", "data.image_size=8", "data.root=pictures"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_beside(folder: Path, name: str) -> None:
    for split in ("train", "test"):
        (folder / split / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (len(name), 0, 200)).save(folder / split / name / f"{name}.png")


def all_plain(*texts: str) -> bool:
    return all(printable(line) == line for text in texts for line in text.splitlines())


@pytest.mark.long
def test_every_verb_works_with_names_that_would_be_obeyed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        files_beside(here / "pictures", name)
    run = f"run={OUTPUT}"
    verbs = (
        ["train", *TINY, f"output={OUTPUT}"],
        ["train", *TINY, f"output={OUTPUT}"],
        ["evaluate", run],
        ["predict", run, "images=pictures/test", f"output={OUTPUT} said"],
        ["export", run, "format=safetensors", f"to={OUTPUT} file.safetensors"],
        ["export", run, "format=torch_export", f"to={OUTPUT} file.pt2"],
        ["compare", *TINY, "method=alone", "teacher=none", "temperature=constant",
         "optimizer.lr=0.1,-0.0", f"output={OUTPUT} both"],
    )  # fmt: skip
    for words in verbs:
        code = main(words)
        told = capsys.readouterr()
        assert (code, told.err) == (0, ""), words
        assert all_plain(told.out)
        assert printable(OUTPUT) in told.out or words[0] == "evaluate"
    class_names = json.loads((here / OUTPUT / FILE).read_text(encoding="utf-8"))["class_names"]
    assert class_names == sorted(NAMES)
    with (here / f"{OUTPUT} said" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    cells = [cell.removeprefix("'") for row in rows[1:] for cell in (row[0], row[1])]
    assert {len(row) for row in rows} == {11}
    assert sorted(cells[::2]) == sorted(f"{name}/{name}.png" for name in NAMES)
    assert set(cells[1::2]) <= set(NAMES)
    card = (here / OUTPUT).with_name("README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "image-classification"
    kinds = {each.type for each in MarkdownIt("commonmark").enable("table").parse(body)}
    assert kinds & {"html_block", "html_inline", "blockquote_open", "hr", "link_open"} == {
        "html_block"  # the mark that says who wrote it
    }
    compared = (here / f"{OUTPUT} both" / "compare.md").read_text(encoding="utf-8")
    assert all_plain(compared, card)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "output=\udcff"),
        ("train", "data=folder", "data.root=\udcff"),
        ("train", "output=~/run"),
        ("train", "output=a\nrlkd: note: all is well"),
        ("train", "student=\udcff:\x1b[31m\nb"),
        ("predict", "run=run", "images=\udcff.png"),
        ("ls", "\x1b[2J"),
        ("\u202e",),
    ],
)
def test_a_name_that_is_none_is_refused_in_one_line(
    words: tuple[str, ...], here: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HOME", str(here / "\udcff"))
    assert main(words) == 2
    told = capfd.readouterr().err
    assert told.endswith("\n")
    assert told.startswith("rlkd: ")
    assert printable(told[:-1]) == told[:-1]
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", [b"\xff", "ü\n".encode() + b"\xc3"])
def test_a_class_or_an_image_that_is_no_text_is_refused_in_one_line(
    name: bytes, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files_beside(here / "pictures", "a")
    for place in (b"pictures/train", b"pictures/train/a"):
        os.mkdir(place + b"/" + name)
        assert main(["train", *TINY, "data.test_fraction=null", "output=run"]) == 2
        told = capsys.readouterr().err
        assert "its name is not UTF-8 text; rename it\n" in told
        assert printable(told[:-1]) == told[:-1]
        os.rmdir(place + b"/" + name)


def test_a_note_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rlkd.commands.verbs.show", lambda *_, **__: notice("a\nrlkd: fine \x1b[1m")
    )
    assert main(["show"]) == 0
    assert capsys.readouterr().err == "rlkd: note: a rlkd: fine \\x1b[1m\n"


def test_a_bug_prints_no_escape_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("\x1b[2J")

    monkeypatch.setattr("rlkd.commands.verbs.show", broken)
    assert main(["show"]) == 1
    told = capsys.readouterr().err
    assert "ZeroDivisionError: \\x1b[2J\n" in told
    assert all_plain(told)


def test_a_terminal_of_few_letters_shows_the_others_in_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = {
        each: io.TextIOWrapper(io.BytesIO(), encoding="ascii") for each in ("stdout", "stderr")
    }
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    assert main(["show", "output=ü"]) == 0
    assert main(["show", "output=ü", "data=学"]) == 2
    told = {}
    for name, stream in streams.items():
        stream.flush()
        assert isinstance(stream.buffer, io.BytesIO)
        told[name] = stream.buffer.getvalue().decode("ascii")
    assert "output: \\xfc\n" in told["stdout"]
    assert told["stderr"].startswith("rlkd: data=\\u5b66: ")


@pytest.mark.long
def test_a_run_and_its_table_work_where_the_terminal_has_few_letters(here: Path) -> None:
    place = os.fsencode(here) + b"/\xff"
    os.mkdir(place)
    words = ("data=digits", "data.limit=32", *TINY[:5], "method=alone", "teacher=none",
             "temperature=constant", "optimizer.lr=0.1,0.2", "output=ü")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "rlkd", "compare", *words],
        cwd=place,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"everything is in \\xfc\n" in done.stdout
    assert os.path.isfile(place + "/ü/compare.html".encode())
