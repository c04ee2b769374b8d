"""The card of an exported student: what it says is so, and its lines load the files."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig
from PIL import Image
from tests.support.refusal import Refuse, assert_told
from tests.support.run_folders import DIGITS, classifier_run, detector_run
from tests.support.runs import silent, tiny
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from rlkd import models
from rlkd.cli import main
from rlkd.config.compose import configure
from rlkd.config.options import trainer_options
from rlkd.data import Dataset, ImageSet
from rlkd.data.imagenet_names import WNIDS
from rlkd.data.images import ImageReader
from rlkd.engine.run import distill
from rlkd.engine.run_folder import RunFolder
from rlkd.export.model_card import Training, card
from rlkd.reporting import Result
from rlkd.tasks.classification.data import plain_loader
from rlkd.tasks.classification.export import exportable_classifier
from rlkd.text_files import write_text

pytestmark = pytest.mark.usefixtures("plainly")

needs_export = pytest.mark.skipif(
    any(find_spec(each) is None for each in ("onnxruntime", "onnxscript")),
    reason="the extra 'export' is not installed",
)
BEFORE = """
import sys
sys.modules["rlkd"] = None  # an import of it fails
import torch
images, answers = torch.load("images.pt"), []
"""
AFTER = "\nanswers.append(torch.as_tensor(logits).detach())\n"


def export(*words: str | Path) -> None:
    assert main(["export", *map(str, words)]) == 0


class Tied(nn.Module):
    """A classifier with two names for one tensor."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(64 * in_channels, 64) for _ in range(2))
        self.second.weight = self.first.weight
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.second(self.first(x.flatten(1)).relu()))


def loading(path: Path) -> str:
    """The lines of a file's card, for anywhere."""
    lines = blocks((path.parent / "README.md").read_text())[0]
    return lines.replace(f"'{path.name}'", f"'{path}'")


def blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def answers_of(cards: list[str], folder: Path) -> Any:
    """What the lines of cards find in a process of their own, started where the files are."""
    program = BEFORE + "".join(lines + AFTER for lines in cards)
    subprocess.run(
        [sys.executable, "-c", program + "torch.save(answers, 'answers.pt')"],
        check=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    return torch.load(folder / "answers.pt")


@pytest.fixture
def without_rlkd(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make imports of rlkd fail from now on."""

    def forget() -> None:
        for name in [each for each in sys.modules if each.partition(".")[0] == "rlkd"]:
            monkeypatch.setitem(sys.modules, name, None)

    return forget


@pytest.fixture(scope="module")
def run(teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("run") / "run")
    kept = ["temperature=constant", "trainer.validation_size=16"]
    distill(tiny(teacher_file, folder.path, *kept), console=silent())
    return folder


def test_a_card_says_what_the_run_says(run: RunFolder, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    export(f"run={run.path}", "format=safetensors", f"to={tmp_path / 'student.safetensors'}")
    text = (tmp_path / "README.md").read_text()
    result = Result.read(run.result)
    assert result.validation is not None
    assert result.teacher is not None

    # what Hugging Face reads of it
    read = hub.ModelCard(text).data
    assert read.pipeline_tag == "image-classification"
    assert {"knowledge-distillation", "rlkd"} <= set(read.tags)
    assert {(each.dataset_name, each.metric_name) for each in read.eval_results} == {
        ("digits", name) for name in ("top1", "top5", "loss")
    }
    values = {each.metric_name: each.metric_value for each in read.eval_results}
    assert values == pytest.approx(result.test.figures())
    assert "license" not in text.partition("---\n")[2].partition("---")[0]

    for scores in (result.test, result.validation, result.teacher):
        assert all(cell in text for cell in scores.words(scores.figures()).values())
    for told in (
        "# convnet_tiny, trained on digits",
        "distilled from a teacher, convnet_small",
        "One run, seed 0: with n = 1 its spread is not known.",
        "after epoch 3, the last; the test split selected nothing",
        "- Method: kd: 0.1 cross_entropy, 0.9 kd",
        "- Temperature: constant, 4\n",
        "limited to 48 training images",
        f"SHA-256 of the configuration: {result.config_sha256}",
        f"torch {result.versions['torch']}",
        "10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
        "mean [0.3058], std [0.3759]",
        "`class_names` is in `student.safetensors.json`.\n",
    ):
        assert told in text, text
    assert "moving average" not in text


def test_the_settings_are_the_runs_and_not_the_exports(tmp_path: Path) -> None:
    run = classifier_run(
        *(tmp_path / "run", "trainer.ema=0.99", "trainer.batch_size=12"),
        *("trainer.precision=bf16-mixed", "method=alone", "task.class_weights=balanced"),
    )
    for given in ([], ["trainer.precision=32-true", "trainer.batch_size=7", "trainer.ema=0.5"]):
        path = tmp_path / "out" / "student.safetensors"
        export(f"run={run.path}", *given, "format=safetensors", f"to={path}")
        text = (path.parent / "README.md").read_text()
        for line in ("Batch: 12", "Precision: bf16-mixed", "Class weights: balanced"):
            assert f"- {line}\n" in text
        assert "- Weights: a moving average of the student, decay 0.99\n" in text


@pytest.mark.long
@needs_export
def test_the_cards_own_lines_load_each_file_without_rlkd(run: RunFolder, tmp_path: Path) -> None:
    for name, file in (("torch_export", "a.pt2"), ("onnx", "b.onnx")):
        export(f"run={run.path}", f"format={name}", f"to={tmp_path / file}")
    text = (tmp_path / "README.md").read_text()
    *found, ready = blocks(text)
    assert "high, wide = (8, 8)" in ready
    assert len(found) == 2
    assert all(len(each.splitlines()) == 3 for each in found)
    assert "torch.export.load('a.pt2')" in found[0]
    assert "InferenceSession('b.onnx')" in found[1]
    images = torch.randn(7, 1, 8, 8)
    torch.save(images, tmp_path / "images.pt")
    network = models.create("convnet_tiny", num_classes=10, in_channels=1).eval()
    models.load_weights(network, run.student)
    with torch.no_grad():
        expected = network(images)
    for answer in answers_of(found, tmp_path):
        torch.testing.assert_close(answer, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["timm:resnet10t", "torchvision:squeezenet1_1"])
def test_weights_of_a_librarys_network_load_without_rlkd(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_rlkd: Callable[[], None],
) -> None:
    pytest.importorskip(name.partition(":")[0])
    network = models.create(name, num_classes=4).eval()
    models.save_weights(network, tmp_path / "s.safetensors")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
    facts = {
        "format": "safetensors",
        "task": "classification",
        "architecture": name,
        "class_names": list("abcd"),
        "input": {"shape": ["batch", 3, 64, 64], "values": "float32"},
        "output": "logits",
        "sha256": "0",
    }
    (lines,) = blocks(card({"s.safetensors": facts}, None))
    assert len(lines.splitlines()) == 3
    monkeypatch.chdir(tmp_path)
    without_rlkd()
    held: dict[str, Any] = {}
    exec(lines, held)
    with torch.no_grad():
        torch.testing.assert_close(held["student"](images), expected)


@pytest.mark.parametrize("photo", [(60, 120), (61, 113), (97, 50)])
@pytest.mark.parametrize(("channels", "resize"), [(3, None), (1, 18), (3, 20)])
def test_an_image_is_made_ready_by_its_lines(
    channels: int, resize: int | None, photo: tuple[int, int], tmp_path: Path
) -> None:
    size = (16, 24)
    noise = torch.randint(256, (2, channels, *size), dtype=torch.uint8)
    images = ImageSet(noise, torch.tensor([0, 1]), ("a", "b"))
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels]
    data = Dataset("folder", images, images, mean, std, 0, False, resize)
    options = trainer_options(configure(["data=digits", "trainer.accelerator=cpu"]))
    network = models.create("convnet_tiny", num_classes=2, in_channels=channels)
    made = exportable_classifier("convnet_tiny", lambda _: network, data, options)
    facts = {**made.facts, "format": "onnx" if resize else "safetensors", "sha256": "0"}
    *_, lines = blocks(card({"s.safetensors": facts}, None))
    assert ("torch" in lines) is (resize is None)
    down, across = torch.meshgrid(*(torch.linspace(0, 255, n) for n in photo), indexing="ij")
    colours = torch.stack([down, across, (down + across) / 2], dim=2)
    Image.fromarray(colours.to(torch.uint8).numpy()).save(tmp_path / "photo.jpg", format="png")
    held: dict[str, Any] = {}
    with contextlib.chdir(tmp_path):
        exec(lines, held)
    pixels = ImageReader(channels).read((tmp_path / "photo.jpg").read_bytes, "photo.jpg")
    seen = ImageSet(data.evaluated(pixels)[None], torch.tensor([0]), ("a", "b"))
    (expected,) = plain_loader(seen, data, options)
    ready, atol = torch.as_tensor(held["images"]), 1.01 / 255 / min(std)  # Pillow rounds twice
    # A step of a pixel is 6 to 16 of 255: a fifth of one would show.
    torch.testing.assert_close(ready, expected.image, rtol=0, atol=atol)


@pytest.mark.parametrize("frame", ["x", [16], ["__import__('os')", 16], [1e999, 16], None])
def test_what_is_no_size_becomes_no_code(frame: object) -> None:
    facts = {
        "format": "safetensors",
        "task": "classification",
        "architecture": "convnet_tiny",
        "class_names": ["a", "b"],
        "input": {"shape": ["batch", 3, 16, 16], "values": "", "frame": frame, "mean": [0.0] * 3},
        "output": "logits",
        "sha256": "0",
    }
    facts["input"]["std"] = [1.0] * 3  # pyright: ignore
    assert len(blocks(card({"s.safetensors": facts}, None))) == 1


def test_weights_of_a_packaged_network_and_of_a_detector_load_by_their_lines(
    run: RunFolder, tmp_path: Path
) -> None:
    export(f"run={run.path}", "format=safetensors", f"to={tmp_path / 'one.safetensors'}")
    held: dict[str, Any] = {}
    lines = blocks((tmp_path / "README.md").read_text())[0]
    exec(lines.replace("'one.", f"'{tmp_path}/one."), held)
    own = models.create("convnet_tiny", num_classes=10, in_channels=1)
    models.load_weights(own, run.student)
    assert all(
        torch.equal(value, held["student"].state_dict()[name])
        for name, value in own.state_dict().items()
    )

    folder = detector_run(tmp_path / "detector")
    path = tmp_path / "found" / "two.safetensors"
    export(f"run={folder.path}", "format=safetensors", f"to={path}")
    text = (path.parent / "README.md").read_text()
    assert "object-detection" in text
    exec(blocks(text)[0].replace("'two.", f"'{path.parent}/two."), held)
    assert type(held["student"]).__name__ == "FasterRCNN"
    # this run left no result: nothing is told of how well it does
    assert "## Results" not in text
    assert "model-index" not in text


def test_a_detector_in_the_form_of_cocos_loads_by_its_line(tmp_path: Path) -> None:
    name = "torchvision:fasterrcnn_resnet50_fpn"
    given = (f"student={name}", "task.student_pretrained=coco", "task.detector.min_size=64")
    run = detector_run(tmp_path / "run", *given)
    own = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet50", weights=None), num_classes=6)
    overwrite_eps(own, 0.0)  # as torchvision does for its weights for COCO
    own.get_parameter("roi_heads.box_predictor.cls_score.weight").data *= 40
    models.save_weights(own, run.student)
    path = tmp_path / "out" / "model.safetensors"
    export(f"run={run.path}", "format=safetensors", f"to={path}")
    held: dict[str, Any] = {}
    exec(loading(path), held)
    norms = [each for each in held["student"].modules() if "BatchNorm" in type(each).__name__]
    assert {(type(each), each.eps) for each in norms} == {(FrozenBatchNorm2d, 0.0)}


def test_a_network_with_tied_weights_loads_by_its_line(tmp_path: Path) -> None:
    network = Tied(10, 1)
    models.save_weights(network, tmp_path / "tied.safetensors")
    words = ("trust=tests", "student=tests.export.test_model_card:Tied")
    given = (*DIGITS, *words, f"student.checkpoint='{tmp_path / 'tied.safetensors'}'")
    path = tmp_path / "out" / "student.safetensors"
    export(*given, "format=safetensors", f"to={path}")
    held: dict[str, Any] = {}
    exec(loading(path), held)
    student = held["student"]
    assert student.second.weight is student.first.weight
    assert torch.equal(student.first.weight, network.first.weight)


def card_of(config: DictConfig, result: Result | None, class_names: Sequence[str]) -> str:
    facts = {
        "format": "safetensors",
        "task": "classification",
        "architecture": "convnet_tiny",
        "class_names": class_names,
        "images": {"test on": 1250},
        "input": {"shape": ["batch", 3, 32, 32], "values": "float32"},
        "output": "logits",
        "sha256": "0",
    }
    return card({"student.safetensors": facts}, Training(config, result))


def test_images_are_imagenets_by_their_classes_and_not_by_their_layout(run: RunFolder) -> None:
    config, result = configure(DIGITS), Result.read(run.result)
    for layout in ("imagenet", "folder", "parquet", "webdataset"):
        config.chosen.data = layout
        text = card_of(config, result, WNIDS)
        assert "# convnet_tiny, trained on imagenet\n" in text
        assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0][
            "dataset"
        ] == {
            "type": "imagenet",
            "name": "imagenet",
            "split": "validation",
        }
        for names in (["cat", "dog"], WNIDS[:2]):
            text = card_of(config, result, names)
            assert "# convnet_tiny, trained on images of one's own (2 classes)\n" in text
            assert "model-index" not in text
            assert "imagenet" not in text
            assert "Use it on images like those it was trained on:" in text
            assert (
                "- Data: images of one's own (2 classes); images: 32 trained on, 0 held out, 16 "
                "to validate on, 1,250 to test on; limited to 48 training images\n"
            ) in text


@pytest.mark.parametrize(
    ("data", "split"),
    [
        ("cifar10", "test"),
        ("cifar100", "test"),
        ("digits", "test"),
        ("shapes", None),
        ("my_patients", None),
    ],
)
def test_public_data_alone_are_named_with_their_split(
    data: str, split: str | None, run: RunFolder
) -> None:
    config = configure(DIGITS)
    config.chosen.data = data
    text = card_of(config, Result.read(run.result), ["0", "1"])
    front = yaml.safe_load(text.split("---\n")[1])
    assert (f"trained on {data}\n" in text) == (data != "my_patients")
    if split is None:
        assert "model-index" not in front
        assert "my_patients" not in text
    else:
        (scored,) = front["model-index"][0]["results"]
        assert scored["dataset"] == {"type": data, "name": data, "split": split}


def test_a_teacher_that_taught_nothing_is_not_told(run: RunFolder) -> None:
    result = Result.read(run.result)
    given = (*DIGITS, "teacher=convnet_small")
    alone, taught = configure([*given, "method=alone"]), configure([*given, "method=kd"])
    untaught = replace(result, teacher=None)
    for config, ended in ((alone, untaught), (alone, None)):
        text = card_of(config, ended, ["0", "1"])
        for word in ("convnet_small", "distill", "Temperature"):
            assert word not in text, text
    for ended in (result, None):
        text = card_of(taught, ended, ["0", "1"])
        assert "It was distilled from a teacher, convnet_small, by rlkd." in text
        assert "- Teacher: convnet_small\n" in text


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    run = classifier_run(tmp_path / "run")
    words = (*DIGITS, "student=convnet_tiny", f"student.checkpoint='{run.student}'")
    export(*words, "format=safetensors", f"to={tmp_path / 'out' / 'student.safetensors'}")
    text = (tmp_path / "out" / "README.md").read_text()
    for unknown in ("teacher", "Training", "Results", "distill", "None", "Method", "seed"):
        assert unknown not in text, text
    # a run's own figures are those of its own student
    other = tmp_path / "other.safetensors"
    write_text(run.result, "{}")
    other.write_bytes(run.student.read_bytes())
    words = (f"run={run.path}", f"student.checkpoint='{other}'", "format=safetensors")
    export(*words, f"to={tmp_path / 'another' / 'student.safetensors'}")
    assert "Training" not in (tmp_path / "another" / "README.md").read_text()


def test_somebody_elses_readme_and_other_students_are_left_alone(tmp_path: Path) -> None:
    first, second = (classifier_run(tmp_path / each, scale=3.0 + len(each)) for each in ("a", "bb"))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "README.md").write_text("my own words")
    (folder / "notes.json").write_text("[1")
    export(f"run={first.path}", "format=safetensors", f"to={folder / 'first.safetensors'}")
    assert (folder / "README.md").read_text() == "my own words"
    text = (folder / "model_card.md").read_text()
    assert "first.safetensors" in text
    facts = json.loads((folder / "first.safetensors.json").read_text())
    assert facts["sha256"] in text
    export(f"run={second.path}", "format=safetensors", f"to={folder / 'second.safetensors'}")
    text = (folder / "model_card.md").read_text()
    assert "second.safetensors" in text
    assert "first.safetensors" not in text


def test_a_model_card_of_ones_own_is_never_overwritten(tmp_path: Path, refuse: Refuse) -> None:
    run = classifier_run(tmp_path / "run")
    folder = tmp_path / "out"
    folder.mkdir()
    own = {"README.md": "my own words", "model_card.md": "more of them"}
    for name, text in own.items():
        (folder / name).write_text(text)
    words = ("format=safetensors", f"to={folder / 'student.safetensors'}")
    told = refuse("export", f"run={run.path}", *words)
    assert_told(told, r"README\.md and model_card\.md are no cards of rlkd's")
    assert {each.name: each.read_text() for each in folder.iterdir()} == own
