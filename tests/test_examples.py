"""The examples run, stay short, and leave students that need no rlkd."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from tests.support.runs import as_users_call
from torch import Tensor
from torch.nn import functional as F

from rlkd.data.datasets import IMAGENET_MEAN, IMAGENET_STD, folder
from rlkd.engine.quiet import quiet_lightning

EXAMPLES = Path(__file__).parent.parent / "examples"

FRESH_PROCESS = """
import sys
sys.modules["rlkd"] = None  # importing it fails, as where it is not installed
import torch
from torch import nn
inputs, weights = torch.load(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
{network}
try:
    import rlkd
except ImportError:
    with torch.no_grad():
        torch.save(logits(network.eval()), sys.argv[1])
else:
    sys.exit("rlkd could be imported")
"""

CONVNET = """
network = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(64, 10),
)
network.load_state_dict(torch.load(weights))
logits = lambda network: network(inputs)
"""

MLP = """
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
network.load_state_dict(torch.load(weights))
logits = lambda network: network(inputs)
"""

BERT = """
from transformers import BertForSequenceClassification
network = BertForSequenceClassification.from_pretrained(weights)
logits = lambda network: network(input_ids=inputs).logits
"""

TIMM = """
import timm
from safetensors.torch import load_file
network = timm.create_model("resnet10t", num_classes=3)
network.load_state_dict(load_file(weights))
logits = lambda network: network(inputs)
"""


@pytest.fixture(autouse=True)
def plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with as_users_call():
        yield


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def logits_without_rlkd(network: str, weights: Path, inputs: Tensor) -> Tensor:
    """Load a student where rlkd cannot be imported, and return what it says about inputs."""
    exchanged = weights.parent / "exchanged.pt"
    torch.save(inputs, exchanged)
    script = FRESH_PROCESS.format(network=network)
    command = [sys.executable, "-I", "-c", script, str(exchanged), str(weights)]
    subprocess.run(command, check=True, timeout=300)
    return torch.load(exchanged)


def updates_told(text: str) -> int:
    said = re.search(r"student [\d.]+ %, (\d+) updates", text)
    assert said is not None
    return int(said[1])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < (60 if path.stem == "plain_loop" else 80)
    assert f"\npython examples/{path.name}" in text


@pytest.mark.parametrize("name", ["plain_loop", "plain_loop_dkd", "several_students"])
def test_a_plain_loop_needs_no_lightning(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert "lightning" not in text.replace("no Lightning", "")


def test_the_plain_loop_runs_and_its_agent_learns(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("plain_loop").main(epochs=2) > 0.14  # chance is 0.1, give or take 0.016
    assert updates_told(capsys.readouterr().out) > 0


def test_students_of_one_teacher_end_as_each_would_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main = load("several_students").main
    together = main(epochs=2)
    assert len(re.findall(r"^\w+: [\d.]+ %$", capsys.readouterr().out, re.MULTILINE)) == 3
    assert together["agent"].source.updates > 0
    for name, each in together.items():
        alone = main(epochs=2, names=[name])[name].student.state_dict()
        found = each.student.state_dict()
        assert all(torch.equal(found[key], value) for key, value in alone.items())


@pytest.mark.long
def test_dkd_runs_in_a_plain_loop_and_leaves_a_plain_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = load("plain_loop_dkd").main(tmp_path / "student.pt", epochs=2)
    assert updates_told(capsys.readouterr().out) > 0
    image = torch.randn(8, 1, 8, 8)
    found = logits_without_rlkd(CONVNET, tmp_path / "student.pt", image)
    torch.testing.assert_close(found, student(image))


@pytest.mark.long
def test_a_lightning_module_of_ones_own_distils_and_leaves_a_plain_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with quiet_lightning():
        model = load("lightning_callback").main(tmp_path / "student.pt", epochs=2)
    assert updates_told(capsys.readouterr().out) > 0
    image = torch.randn(8, 1, 8, 8)
    found = logits_without_rlkd(MLP, tmp_path / "student.pt", image)
    torch.testing.assert_close(found, model(image))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")
def test_a_hugging_face_trainer_distils_and_leaves_a_plain_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    student = load("huggingface_trainer").main(tmp_path / "student", epochs=1)
    assert updates_told(capsys.readouterr().out) > 0
    words = torch.randint(student.config.vocab_size, (8, 16))
    found = logits_without_rlkd(BERT, tmp_path / "student", words)
    torch.testing.assert_close(found, student.eval()(input_ids=words).logits)


@pytest.mark.long
def test_an_image_folder_of_ones_own_leaves_a_student_that_timm_loads(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    result = load("image_folder").main(output=tmp_path, epochs=2)
    weights = tmp_path / "student" / "student.safetensors"
    assert "agent/reward" in (tmp_path / "student" / "metrics.csv").read_text()
    test = folder(root=tmp_path / "images", image_size=32).test
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    logits = logits_without_rlkd(TIMM, weights, (test.image / 255 - mean) / std)
    assert F.cross_entropy(logits, test.target).item() == pytest.approx(result.test.loss, rel=1e-4)
    teacher = tmp_path / "teacher" / "student.safetensors"
    assert load_file(teacher)["fc.weight"].shape == (3, 512)
