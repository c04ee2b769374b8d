"""Fixtures of the rooms whose tests train."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support.detection_runs import write_detector
from tests.support.refusal import Refuse
from tests.support.runs import Ready, as_users_call, fingerprint, write_teacher
from torch import nn

from rlkd import models
from rlkd.cli import main
from rlkd.losses import Objective, Term
from rlkd.models import Teacher
from rlkd.tasks.classification.forward import ClassifierForward, prepare_forward
from rlkd.temperature import ConstantTemperature
from rlkd.types import Batch

__all__ = [
    "batch",
    "detector_file",
    "plainly",
    "ready",
    "refuse",
    "student",
    "teacher",
    "teacher_file",
]


@pytest.fixture
def plainly(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run as users run: see `as_users_call`. Only long tests, and those of charts, draw charts."""
    with as_users_call(), pytest.MonkeyPatch.context() as patched:
        if request.node.get_closest_marker("long") is None:
            patched.setattr("rlkd.reporting.plotting.svg", lambda title, size, draw: "<svg/>")
        yield


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "teacher.pth")


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return a detector's weights, trained by the first of the workers that asks for them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "detector"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock, as_users_call():
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        if not done.is_file():
            done.write_text(str(write_detector(folder / "run")))
        return Path(done.read_text())


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refuse:
    """Run a command that must fail; return its one line, having seen that nothing was touched."""

    def refuse(*arguments: str) -> str:
        before = fingerprint(tmp_path)
        code = main(arguments)
        told = capsys.readouterr().err
        assert code == 2, told
        assert len(told.splitlines()) == 1, told
        assert told.startswith("rlkd: ")
        assert fingerprint(tmp_path) == before
        return told.strip()

    return refuse


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    return Batch(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]), torch.tensor([5, 1, 0, 3]))


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(1)
    return models.create("resnet8", num_classes=10)


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(2)
    return Teacher(models.create("resnet14", num_classes=10))


@pytest.fixture
def ready(student: nn.Module, teacher: Teacher, batch: Batch) -> Ready:
    def make(**terms: Term) -> tuple[Objective, ClassifierForward]:
        objective = Objective(terms)
        forward = prepare_forward(
            objective,
            student,
            teacher,
            batch=batch,
            train_targets=torch.arange(10).repeat(2),
            num_classes=10,
            temperature=ConstantTemperature(4.0),
        )
        return objective, forward

    return make
