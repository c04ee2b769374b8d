"""`rlkd export`: files that answer as the student does, without rlkd."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.support.refusal import Refuse, assert_told
from tests.support.run_folders import DIGITS, classifier_run, detector_run
from torch import Tensor, nn

from rlkd import models
from rlkd.cli import main
from rlkd.commands import export as exporting
from rlkd.data import digits as handwritten
from rlkd.data.detection.shapes import shapes
from rlkd.engine.run_folder import RunFolder
from rlkd.models import create_detector
from rlkd.tasks.detection.export import _aligned

pytestmark = pytest.mark.usefixtures("plainly")

onnx_is_here = pytest.mark.skipif(
    any(find_spec(each) is None for each in ("onnxruntime", "onnxscript")),
    reason="the extra 'export' is not installed",
)
WITHOUT_RLKD = """
import sys
sys.modules["rlkd"] = None  # an import of it fails
import numpy as np, torch
images, *files, output = sys.argv[1:]
images = np.load(images)
answers = {}
for file in files:
    if file.endswith(".pt2"):
        answers["pt2"] = torch.export.load(file).module()(torch.from_numpy(images)).detach().numpy()
    else:
        import onnxruntime
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (answers["onnx"],) = session.run(["logits"], {"images": images})
np.savez(output, **answers)
"""


class Noisy(nn.Module):
    """A classifier that never says the same twice."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + torch.rand(())


class Hesitant(Noisy):
    """A classifier whose path depends on what it sees, which no graph holds."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x if x.sum().item() > 0 else -x)


def export(*words: str | Path) -> int:
    return main(["export", *map(str, words)])


def facts(path: Path) -> dict[str, Any]:
    return json.loads(path.with_name(f"{path.name}.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return classifier_run(tmp_path_factory.mktemp("classifier") / "run")


@pytest.fixture(scope="module")
def detectors_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return detector_run(tmp_path_factory.mktemp("detector") / "run")


def normalised(count: int) -> Tensor:
    return (handwritten.load_digits()[1].image[:count].float() / 255 - 0.3058) / 0.3759


def logits(run: RunFolder, images: Tensor) -> Tensor:
    network = models.create("convnet_tiny", num_classes=10, in_channels=1)
    models.load_weights(network, run.student)
    with torch.no_grad():
        return network.eval()(images)


def test_weights_come_with_what_their_user_has_to_know(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "student.safetensors"
    assert export(f"run={run.path}", "format=safetensors", f"to={path}") == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{path}: answers as the student does, to 0;")
    written, own = load_file(path), load_file(run.student)
    assert written.keys() == own.keys()
    assert all(torch.equal(written[name], own[name]) for name in own)
    found = facts(path)
    assert found["format"] == "safetensors"
    assert found["task"] == "classification"
    assert found["architecture"] == "convnet_tiny"
    assert found["class_names"] == [str(digit) for digit in range(10)]
    assert found["input"]["shape"] == ["batch", 1, 8, 8]
    assert (found["input"]["mean"], found["input"]["std"]) == ([0.3058], [0.3759])
    assert found["max_difference"] == 0
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {each.name for each in path.parent.iterdir()} == {
        path.name,
        f"{path.name}.json",
        "README.md",
    }


@pytest.mark.long
@onnx_is_here
def test_exported_students_run_without_rlkd(run: RunFolder, tmp_path: Path) -> None:
    files = {"torch_export": tmp_path / "student.pt2", "onnx": tmp_path / "student.onnx"}
    for name, path in files.items():
        assert export(f"run={run.path}", f"format={name}", f"to={path}") == 0
        assert facts(path)["max_difference"] <= 1e-4
    images = normalised(11)  # a number that none was exported or compared with
    np.save(tmp_path / "images.npy", images.numpy())
    given = (tmp_path / "images.npy", *files.values(), tmp_path / "answers.npz")
    subprocess.run(
        [sys.executable, "-c", WITHOUT_RLKD, *map(str, given)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    expected = logits(run, images)
    assert expected.std() > 0.1
    with np.load(tmp_path / "answers.npz") as answers:
        for name in ("pt2", "onnx"):
            found = torch.from_numpy(answers[name])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.long
@onnx_is_here
@pytest.mark.parametrize(("name", "ending"), [("onnx", "onnx"), ("torch_export", "pt2")])
def test_a_file_names_no_folder_of_the_machine_that_wrote_it(
    name: str, ending: str, run: RunFolder, tmp_path: Path
) -> None:
    written = tmp_path / f"student.{ending}"
    assert export(f"run={run.path}", f"format={name}", f"to={written}") == 0
    found = written.read_bytes()
    assert str(Path(models.__file__).parent).encode() not in found
    assert os.fsencode(tmp_path) not in found


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[type[Noisy]], tuple[str, ...]]:
    """The words for a student of a class of this file's."""

    def words(kind: type[Noisy]) -> tuple[str, ...]:
        path = tmp_path / "weights.safetensors"
        models.save_weights(kind(10, 1), path)
        student = f"student=tests.export.test_exporting:{kind.__name__}"
        return (*DIGITS, "trust=tests", student, f"student.checkpoint='{path}'")

    return words


def test_a_file_that_disagrees_is_removed_and_an_older_one_kept(
    checkpoint: Callable[[type[Noisy]], tuple[str, ...]], tmp_path: Path, refuse: Refuse
) -> None:
    path = tmp_path / "student.safetensors"
    path.write_text("an older one")
    words = checkpoint(Noisy)
    told = refuse("export", *words, "format=safetensors", f"to={path}")
    assert_told(told, r"the file's answers differ from the student's by 0\.\d+, above 0\.0001, so")
    assert path.read_text() == "an older one"
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "weights.safetensors"}


def test_a_network_that_no_graph_holds_is_refused_in_one_line(
    checkpoint: Callable[[type[Noisy]], tuple[str, ...]], tmp_path: Path, refuse: Refuse
) -> None:
    words = (*checkpoint(Hesitant), "format=torch_export", f"to={tmp_path / 'student.pt2'}")
    told = refuse("export", *words)
    assert_told(told, "format=torch_export does not hold this Hesitant .*: give format=safetensors")


def test_a_missing_package_is_named(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Refuse
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    told = refuse("export", f"run={run.path}", "format=onnx", f"to={tmp_path / 'student.onnx'}")
    assert_told(told, r"format=onnx needs packages .*: pip install onnx onnxscript onnxruntime")


def test_a_detectors_weights_agree_and_are_told(detectors_run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "detector.safetensors"
    words = (f"run={detectors_run.path}", "format=safetensors", f"to={path}")
    assert export(*words) == 0
    found = facts(path)
    names = shapes(train=1, test=1).train.class_names
    assert found["class_names"] == ["background", *names]
    assert found["category_ids"] == list(range(len(names) + 1))
    assert (found["architecture"], found["max_difference"]) == ("fasterrcnn_tiny", 0)


@pytest.mark.long
@onnx_is_here
def test_a_detector_as_onnx_finds_the_same_in_images_of_other_sizes(
    detectors_run: RunFolder, tmp_path: Path
) -> None:
    import onnxruntime

    path = tmp_path / "detector.onnx"
    assert export(f"run={detectors_run.path}", "format=onnx", f"to={path}") == 0
    assert facts(path)["max_difference"] <= 1e-4
    session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    detector = create_detector("fasterrcnn_tiny", num_classes=6).eval()
    models.load_weights(detector, detectors_run.student)
    scene = shapes(train=1, test=6).test.image(5).float() / 255
    wide = torch.cat([scene, scene.flip(2)], dim=2)
    # float32 would make 61 x 133 and 61 x 154 pixels one too small and one too large
    for image in (scene, scene[:, :70], wide, wide[:, :61, :133], wide[:, :61, :154]):
        with torch.no_grad():
            (expected,) = detector([image])
        found = session.run(["boxes", "labels", "scores"], {"image": image.numpy()})
        assert len(expected["boxes"]) > 0
        for name, values in zip(("boxes", "labels", "scores"), found, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(values), expected[name], rtol=1e-4, atol=1e-3
            )


def test_only_the_order_of_what_is_found_is_free() -> None:
    box = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.1, 0.1, 0.9, 0.9], [0.0, 0.2, 0.5, 0.7]])
    own = [box, torch.tensor([1, 2, 1]), torch.tensor([1.0, 1.0, 0.5])]
    swapped = torch.tensor([1, 0, 2])
    assert exporting._apart(own, _aligned(own, [each[swapped] for each in own])) == 0
    moved = [own[0] + torch.tensor([0.0, 0.0, 0.0, 0.25]), *own[1:]]
    assert exporting._apart(own, _aligned(own, moved)) == 0.25
    renamed = [own[0], torch.tensor([1, 2, 3]), own[2]]
    assert exporting._apart(own, _aligned(own, renamed)) == 2
    fewer = [each[:2] for each in own]
    assert exporting._apart(own, _aligned(own, fewer)) == float("inf")
    broken = [own[0], own[1], torch.tensor([1.0, 1.0, float("nan")])]
    assert exporting._apart(own, _aligned(own, broken)) == float("inf")


def test_a_detector_is_no_torch_export(
    detectors_run: RunFolder, tmp_path: Path, refuse: Refuse
) -> None:
    words = (f"run={detectors_run.path}", "format=torch_export", f"to={tmp_path / 'detector.pt2'}")
    told = refuse("export", *words)
    assert_told(
        told, "format=torch_export is not for this student: .*; give format=safetensors or onnx"
    )


def test_a_detector_that_finds_nothing_cannot_be_compared(tmp_path: Path, refuse: Refuse) -> None:
    run = detector_run(tmp_path / "run", "+task.detector.box_score_thresh=1.0")
    words = (f"run={run.path}", "format=safetensors", f"to={tmp_path / 'student.safetensors'}")
    assert_told(refuse("export", *words), "the student finds nothing in the first test images")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("to=a.onnx",), "format=None: give one of safetensors, onnx, torch_export"),
        (("format=pickle", "to=a"), "format=pickle: give one of"),
        (("format=onnx",), "to is missing: give to=student.onnx"),
        (
            ("format=torch_export", "to=a.pt"),
            r"to=a\.pt: a file of format=torch_export ends in \.pt2",
        ),
        (("format=onnx", "to=a.onnx"), "the student has no weights"),
        (("format=onnx", "to=a.onnx", "run=nowhere"), "give run=FOLDER of a run"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], told: str, refuse: Refuse) -> None:
    assert_told(refuse("export", *words), told)


def test_nan_and_other_shapes_never_agree() -> None:
    one = [torch.zeros(2)]
    assert exporting._apart(one, [torch.zeros(3)]) == float("inf")
    assert exporting._apart(one, [torch.tensor([0.0, float("nan")])]) == float("inf")
    assert exporting._apart(one, [torch.tensor([0.0, -0.25])]) == 0.25
    assert exporting._apart([], []) == 0
