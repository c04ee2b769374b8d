"""What is read from a disk: regular files, of bounded size, depth and length, or a line of why."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rlkd.engine.class_names import keep_order
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.reporting import ImageCounts, PolicyMap, Result, read_metrics
from rlkd.text_files import MAX_DEPTH, parse_config, parse_json, read_config, read_json, read_text

DEEP = 100_000
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"

JSON: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "line 1: Expecting value"),
    "no text": (b"\xff\xfe", "codec can't decode"),
    "deep lists": ("[" * DEEP + "]" * DEEP, "nested too deeply"),
    "deep objects": ('{"a":' * DEEP + "1" + "}" * DEEP, "nested too deeply"),
    "a little too deep": ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "nested too deeply"),
    "endless digits": ("[" + "9" * 5000 + "]", "Exceeds the limit"),
    "not a number": ('{"top1": NaN}', "NaN is no number of JSON"),
    "infinity": ('{"top1": -Infinity}', "-Infinity is no number of JSON"),
    "a key twice": ('{"seed": 1, "seed": 2}', "has a key twice"),
    "cut short": ('{"seed": ', "line 1: Expecting value"),
}
YAML: dict[str, tuple[str | bytes, str]] = {
    "empty list": ("[1]", "holds no settings"),
    "no text": (b"\xff\xfe", "codec can't decode"),
    "deep": ("a: " + "[" * DEEP, "nest"),
    "deep and closed": ("a: " + "[" * 900 + "]" * 900, "nested too deeply"),
    "aliases": (BOMB, "line 2 has an alias"),
    "an alias of itself": ("a: &a [*a]", "has an alias"),
    "long": ("a: [" + "1," * 60_000 + "1]", "too long"),
    "endless digits": ("a: " + "9" * 5000, "Exceeds the limit"),
    "a key twice": ("seed: 1\nseed: 2\n", "duplicate key"),
    "an object": ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "unbalanced": ("a: [", "expected"),
    "a control character": ("a: \x07", "control characters"),
    "too large": ("a: " + "x" * (2**20 + 1), "bytes, above 1,048,576"),
}


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def line(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as told:
        read()
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("kind", JSON)
def test_json_that_is_none_is_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    content, told = JSON[kind]
    path = written(tmp_path, content)
    said = line(lambda: read_json(path, "repeat the run"))
    assert str(path) in said
    assert told in said
    assert said.endswith("; repeat the run")
    assert len(said) < 400


@pytest.mark.parametrize("kind", YAML)
def test_a_configuration_that_is_none_is_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    content, told = YAML[kind]
    path = written(tmp_path, content)
    said = line(lambda: read_config(path, "repeat the run"))
    assert str(path) in said
    assert told in said
    assert len(said) < 600


def test_what_is_well_formed_is_read() -> None:
    assert parse_json(b'{"a": [1, 2.5, null, "x"]}') == {"a": [1, 2.5, None, "x"]}
    assert parse_config("a: {b: 1e-3}\nc: ${a.b}\n") == {"a": {"b": 0.001}, "c": 0.001}


@pytest.fixture(params=["fifo", "device", "folder"])
def irregular(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path to wait at for ever, one without end, and one that is no file at all."""
    path = tmp_path / "there"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("read", [Result.read, PolicyMap.read, read_metrics])
def test_only_regular_files_are_read(read: Callable[[Path], object], irregular: Path) -> None:
    assert str(irregular) in line(lambda: read(irregular))
    said = line(lambda: read_text(irregular, ""))
    assert "not a regular file" in said


def test_a_file_that_is_larger_than_can_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "bytes, above 67,108,864" in line(lambda: read_text(path, "repeat the run"))


METRICS = {
    "a cell without end": ("a\n" + "9" * 200_000 + "\n", "field larger than field limit"),
    "a column twice": ("a,a\n1,2\n", "names a column twice"),
    "a cell of many letters": ("a\n" + "x" * 1000 + "\n", 'column "a" holds "xxx'),
}


@pytest.mark.parametrize("kind", METRICS)
def test_metrics_that_are_none_are_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    content, told = METRICS[kind]
    said = line(lambda: read_metrics(written(tmp_path, content)))
    assert told in said
    assert len(said) < 400


@pytest.mark.parametrize("file", ["config.yaml", "images.json", "class_names.json"])
def test_a_run_folder_nested_without_end_is_refused(file: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim("seed: 1\n", ImageCounts(40), "feed")
    folder.claim("seed: 1\n", ImageCounts(40), "feed")
    (folder.path / file).write_text("[" * DEEP)

    def go_on() -> None:
        folder.claim("seed: 1\n", ImageCounts(40), "feed")
        keep_order(folder, ["cat", "dog"])

    assert str(folder.path / file) in line(go_on)
    assert (folder.path / file).read_text() == "[" * DEEP
