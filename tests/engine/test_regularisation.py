"""What holds a student back in training, each against the library that is known for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import Precision
from safetensors.torch import load_file
from tests.support.runs import TINY, silent, tiny, tiny_config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rlkd import models
from rlkd.config.compose import configure
from rlkd.engine import build
from rlkd.engine import run as running
from rlkd.engine.checkpoint_store import CheckpointStore
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import Notice, UserError
from rlkd.losses import LossInputs, Objective
from rlkd.reporting import Result
from rlkd.tasks.classification.forward import ClassifierForward
from rlkd.types import Batch

pytestmark = pytest.mark.usefixtures("plainly")

PLAIN = ("temperature=constant", "optimizer.momentum=0", "optimizer.weight_decay=0")
ONE_STEP = (*PLAIN, "trainer.max_steps=1", "optimizer.lr=1")


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that students begin with."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = models.create("convnet_tiny", num_classes=10, in_channels=1)
    path = tmp_path_factory.mktemp("student") / "student.pth"
    torch.save(network.state_dict(), path)
    return path


def trained(teacher: Path, start: Path, place: Path, *more: str) -> dict[str, Tensor]:
    given = (f"student.checkpoint='{start}'", *more)
    running.run(tiny_config(teacher, place, *given), console=silent())
    return load_file(RunFolder(place).student)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_clipped_as_torch_clips_its_gradient(
    accumulate: int, teacher_file: Path, start: Path, tmp_path: Path
) -> None:
    before, given = torch.load(start), (*ONE_STEP, f"trainer.accumulate={accumulate}")
    free = trained(teacher_file, start, tmp_path / "free", *given)
    held = trained(teacher_file, start, tmp_path / "held", *given, "trainer.gradient_clip=0.01")
    network = models.create("convnet_tiny", num_classes=10, in_channels=1)
    network.load_state_dict(before)
    for name, each in network.named_parameters():
        each.grad = before[name] - free[name]  # SGD's step at rate 1
    norm = nn.utils.clip_grad_norm_(network.parameters(), 0.01)
    assert norm > 0.02
    for name, each in network.named_parameters():
        assert each.grad is not None
        torch.testing.assert_close(before[name] - held[name], each.grad, rtol=1e-3, atol=2e-7)


def test_a_fused_optimiser_is_clipped_in_bfloat16_too(
    teacher_file: Path, start: Path, tmp_path: Path
) -> None:
    given = (*ONE_STEP, "trainer.precision=bf16-mixed", "+optimizer.fused=true")
    held = trained(teacher_file, start, tmp_path, *given, "trainer.gradient_clip=0.01")
    before = torch.load(start)
    names = [name for name, _ in models.create("convnet_tiny", num_classes=10).named_parameters()]
    step = torch.cat([(before[name] - held[name]).flatten() for name in names])
    assert step.norm() == pytest.approx(0.01, rel=1e-3)


def test_a_fused_optimiser_that_takes_the_scale_off_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch, teacher_file: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(Precision, "scaler", object(), raising=False)  # what float16 has on a GPU
    given = (*ONE_STEP, "+optimizer.fused=true", "trainer.gradient_clip=0.01")
    with pytest.raises(UserError, match=r"leave optimizer\.fused out"):
        running.run(tiny_config(teacher_file, tmp_path, *given), console=silent())


@pytest.mark.long
def test_a_gradient_below_the_norm_is_left_as_it_is(
    teacher_file: Path, start: Path, tmp_path: Path
) -> None:
    free = trained(teacher_file, start, tmp_path / "free", *ONE_STEP)
    held = trained(teacher_file, start, tmp_path / "held", *ONE_STEP, "trainer.gradient_clip=1e6")
    assert all(torch.equal(held[name], each) for name, each in free.items())


def ready_to_train(place: Path, *more: str) -> StudentModule:
    config = configure([*TINY, "method=alone", "temperature=constant", f"output='{place}'", *more])
    return build.task(config).prepare(config, build.trainer_options(config)).module


@pytest.mark.parametrize("given", ["balanced", "[1,2,3,4,5,6,7,8,9,10]"])
def test_a_run_smooths_and_weights_its_labels_as_torch_does(given: str, tmp_path: Path) -> None:
    settings = ("task.label_smoothing=0.2", f"task.class_weights={given}")
    module = ready_to_train(tmp_path / "run", *settings)
    loader: Any = module.loader
    batch, counts = next(iter(loader)), torch.bincount(loader.images.target)
    weights = torch.arange(1.0, 11) if given != "balanced" else len(loader.images) / 10 / counts
    inputs = module.forward_pass(batch).inputs
    _, terms = module.objective(inputs)
    one_hot = F.one_hot(batch.target, 10).float()
    expected = F.cross_entropy(inputs.student_logits, one_hot, weights, label_smoothing=0.2)
    torch.testing.assert_close(terms["cross_entropy"], expected.detach())


def test_labels_that_no_term_reads_are_not_smoothed(teacher_file: Path, tmp_path: Path) -> None:
    given = ("temperature=constant", "~method.terms.cross_entropy", "task.label_smoothing=0.1")
    config = configure([*tiny(teacher_file, tmp_path / "run", *given)])
    with pytest.raises(UserError, match=r"task\.label_smoothing is of the cross-entropy"):
        build.task(config).prepare(config, build.trainer_options(config))


def test_a_class_without_images_cannot_be_balanced(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class 8 has no training image: give a list"):
        ready_to_train(tmp_path / "run", "data.limit=9", "task.class_weights=balanced")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "task.class_weights=balanced",
            r"of the labels' term alone.*best trained with them too",
        ),
        ("trainer.batch_size=99", r"trainer\.batch_size=99 is above the \d+ training images"),
    ],
)
def test_a_setting_that_does_little_is_remarked_on(
    setting: str, said: str, teacher_file: Path, tmp_path: Path
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *ONE_STEP, setting)
    with pytest.warns(Notice, match=said):
        running.run(config, console=silent())


def test_a_teacher_is_balanced_without_a_remark(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    given = ("method=alone", "teacher=none", "temperature=constant", "task.class_weights=balanced")
    running.run(configure([*TINY, *given, f"output={tmp_path / 'run'}"]), console=silent())
    assert not [each for each in recwarn if "class_weights" in str(each.message)]


def test_what_is_frozen_ends_as_the_checkpoint_that_the_student_began_with(
    teacher_file: Path, start: Path, tmp_path: Path
) -> None:
    given = ("temperature=constant", "optimizer=adamw", "optimizer.weight_decay=0.1")
    ended = trained(teacher_file, start, tmp_path, *given, "student.freeze=[layers.0.*]")
    for name, each in torch.load(start).items():
        assert torch.equal(ended[name], each) is name.startswith("layers.0."), name


def test_a_student_starts_warm(teacher_file: Path, start: Path, tmp_path: Path) -> None:
    given = ("temperature=constant", "optimizer.lr=0", "trainer.epochs=1")
    ended, held = trained(teacher_file, start, tmp_path / "all", *given), torch.load(start)
    parameters = [name for name in held if name.endswith((".weight", ".bias"))]
    assert all(torch.equal(ended[name], held[name]) for name in parameters)
    with pytest.warns(Notice, match="fc.weight, fc.bias are new, the rest is the file's"):
        ended = trained(teacher_file, start, tmp_path / "head", *given, "student.head=new")
    others = {name for name in parameters if not torch.equal(ended[name], held[name])}
    assert others == {"fc.weight", "fc.bias"}


def test_the_average_is_torchs_and_is_what_is_scored_and_left(
    teacher_file: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = models.create("convnet_tiny", num_classes=10, in_channels=1)
    follow = get_ema_multi_avg_fn(0.7)
    oracle = AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
    compared: list[int] = []
    save = CheckpointStore.save

    def compare(self: CheckpointStore, checkpoint: Any, step: int, *, keep: int) -> None:
        save(self, checkpoint, step, keep=keep)
        if step in compared:  # the last of an epoch is saved once more
            return
        state = checkpoint["state_dict"]
        network.load_state_dict(of("student.", state))
        oracle.update_parameters(network)
        for name, each in of("averaged.network.", state).items():
            whole = not each.is_floating_point()
            expected = (network if whole else oracle.module).state_dict()[name]
            torch.testing.assert_close(each, expected, msg=f"{name} after step {step}")
        compared.append(step)

    monkeypatch.setattr(CheckpointStore, "save", compare)
    given = ("temperature=constant", "trainer.ema=0.7", "trainer.checkpoint_every_steps=1")
    ended = trained(teacher_file, start, tmp_path / "run", *given)
    assert compared == list(range(1, 10))
    for name, each in oracle.module.named_parameters():
        torch.testing.assert_close(ended[name], each.detach())
        assert not torch.equal(ended[name], network.state_dict()[name])
    scored = running.score_checkpoints([f"run={tmp_path / 'run'}"], console=silent())
    assert scored["student"] == Result.read(tmp_path / "run" / "result.json").test


def of(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {name: each for name, each in state.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): each for name, each in found.items()}


def test_student_and_teacher_train_on_the_same_mixed_images(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[LossInputs] = []
    images: list[Tensor] = []
    forward, call = Objective.forward, ClassifierForward.__call__

    def see(self: Objective, inputs: LossInputs) -> Any:
        seen.append(inputs)
        return forward(self, inputs)

    def look(self: ClassifierForward, batch: Batch) -> Any:
        images.append(batch.image)
        return call(self, batch)

    config = tiny_config(teacher_file, tmp_path, "temperature=constant", "task.mix=mixup")
    prepared = build.task(config).prepare(config, build.trainer_options(config))
    loader: Any = prepared.module.loader
    plain = next(iter(loader))
    monkeypatch.setattr(Objective, "forward", see)
    monkeypatch.setattr(ClassifierForward, "__call__", look)
    running.run(config, console=silent())
    first, image = seen[0], images[1]  # after the example that the parts are tried on
    assert first.target.shape == (16, 10)
    torch.testing.assert_close(first.target.sum(dim=1), torch.ones(16))
    assert not torch.equal(image, plain.image)
    assert prepared.module.teacher is not None
    expected = prepared.module.teacher(image)
    torch.testing.assert_close(first.teacher_logits, expected)


def test_a_teachers_store_has_no_mixed_images(teacher_file: Path, tmp_path: Path) -> None:
    given = ("temperature=constant", "task.mix=cutmix", f"teacher.cache='{tmp_path / 'store'}'")
    config = tiny_config(teacher_file, tmp_path / "run", *given)
    with pytest.warns(Notice, match="task.mix mixes them: the teacher's network runs"):
        build.task(config).prepare(config, build.trainer_options(config))
    assert not (tmp_path / "store").exists()
