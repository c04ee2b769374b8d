"""Verbs that write to a disk that is full: one line, and the older files as they were."""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits
from tests.export.test_exporting import onnx_is_here
from tests.support.refusal import Refuse, assert_told
from tests.support.run_folders import classifier_run, detector_run

from rlkd.engine.run_folder import RunFolder
from rlkd.text_files import write_object

pytestmark = pytest.mark.usefixtures("plainly")
ROOM = 1000
"""Bytes that a file may have: more than a class order, fewer than what is written here."""


@contextmanager
def no_larger_file(size: int = ROOM) -> Iterator[None]:
    """Let this process write no file beyond a size; Python makes an OSError of it."""
    load_digits()  # whose joblib makes a semaphore, a file, the first time
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writes_none = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # which Python would cut short, and fail to read ever after
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = writes_none


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "classifier": classifier_run(folder / "classifier"),
        "detector": detector_run(folder / "detector"),
    }


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("classifier", "student.safetensors"),
        pytest.param("classifier", "student.onnx", marks=[onnx_is_here, pytest.mark.long]),
        pytest.param("classifier", "student.pt2", marks=pytest.mark.long),
        pytest.param("detector", "student.onnx", marks=[onnx_is_here, pytest.mark.long]),
    ],
)
def test_an_export_leaves_the_older_file_and_names_the_disk_not_the_network(
    kind: str, file: str, runs: dict[str, RunFolder], tmp_path: Path, refuse: Refuse
) -> None:
    named = {".safetensors": "safetensors", ".onnx": "onnx", ".pt2": "torch_export"}
    path = tmp_path / file
    path.write_text("an older one")
    (tmp_path / f"{file}.json").write_text("{}")
    words = (f"run={runs[kind].path}", f"format={named[path.suffix]}", f"to={path}")
    with no_larger_file():
        told = refuse("export", *words)
    assert_told(told, rf"^rlkd: cannot write {path}: File too large; free some space")
    assert path.read_text() == "an older one"


def test_a_prediction_leaves_the_older_pictures(
    runs: dict[str, RunFolder], tmp_path: Path, refuse: Refuse
) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    Image.effect_noise((64, 64), 90).convert("RGB").save(images / "a.png")
    picture = output / "pictures" / "a.png"
    picture.parent.mkdir(parents=True)
    picture.write_text("an older one")
    write_object(output / "predictions.json", {"complete": False, "predictions": []})
    words = (f"run={runs['detector'].path}", f"images={images}", f"output={output}")
    with no_larger_file():
        told = refuse("predict", *words)
    assert_told(told, rf"^rlkd: cannot write {picture}: File too large; free some space")


def test_a_prediction_that_cannot_even_begin_leaves_the_older_one(
    runs: dict[str, RunFolder], tmp_path: Path, refuse: Refuse
) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    for folder in (images, output):
        folder.mkdir()
    Image.new("L", (8, 8)).save(images / "a.png")
    older = [{"file": "b.png", "width": 8, "height": 8, "classes": []}]
    write_object(output / "predictions.json", {"predictions": older})
    words = (f"run={runs['classifier'].path}", f"images={images}", f"output={output}")
    with no_larger_file(1):
        told = refuse("predict", *words)
    assert_told(told, f"^rlkd: cannot write {output / 'predictions.json'}: File too large")


def test_whatever_meets_a_full_disk_is_the_users_to_solve(
    monkeypatch: pytest.MonkeyPatch, refuse: Callable[..., str], tmp_path: Path
) -> None:
    def fill(*_: object, **__: object) -> None:
        with (tmp_path / "events").open("wb", buffering=0) as file:
            try:
                file.write(bytes(ROOM + 1))
                file.write(b"1")
            finally:
                (tmp_path / "events").unlink()

    monkeypatch.setattr("rlkd.commands.verbs.show", fill)
    with no_larger_file():
        told = refuse("show")
    assert_told(told, "^rlkd: File too large; free some space and run the same command again$")
