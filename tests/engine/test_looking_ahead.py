"""Whole runs whose agent is paid by a look-ahead."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import SOURCES, silent, tiny, tiny_config
from torch import Tensor

from rlkd.config.compose import configure
from rlkd.config.options import trainer_options
from rlkd.engine import build
from rlkd.engine import run as running
from rlkd.engine.finished_run import with_weights
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.lightning_callback import TemperatureCallback
from rlkd.reporting.results.metrics import read_metrics
from rlkd.tasks.classification import forward as forwards
from rlkd.tasks.classification.data import load_sets
from rlkd.tasks.classification.evaluate import score
from rlkd.temperature import GreedyLookAhead
from rlkd.temperature.look_ahead import Gains

pytestmark = pytest.mark.usefixtures("plainly")

LOOKING = SOURCES["rlkd, looking ahead"]


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Gains]]:
    """The step of each gain that was asked for, and the gains."""
    found: list[tuple[int, Gains]] = []
    gains = StudentModule._gains

    def kept(self: StudentModule, *given: Any) -> Gains:
        found.append((self.global_step, gains(self, *given)))
        return found[-1][1]

    monkeypatch.setattr(StudentModule, "_gains", kept)
    return found


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ((), [3, 5, 7]),  # of the second and third epochs: 3 batches each
        (("trainer.accumulate=2",), [3, 5, 7]),
        (("trainer.precision=bf16-mixed",), [3, 5, 7]),
        (("temperature.over=standardised", "temperature.equal_steps=true"), [3, 5, 7]),
        (("method=pkt",), [3, 5, 7]),  # beside KD, whose temperatures it looks at
        (("temperature.held_out=soft_error", "temperature.group_size=1"), [3, 5, 7]),
    ],
)
def test_it_looks_at_every_so_many_steps(
    more: tuple[str, ...],
    steps: list[int],
    looked: list[tuple[int, Gains]],
    tmp_path: Path,
    teacher_file: Path,
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *LOOKING, *more)
    running.run(config, console=silent())
    assert sorted({step for step, _ in looked}) == steps
    assert len(looked) == len(steps) * config.temperature.group_size
    for _, gains in looked:
        assert gains.gain.isfinite().all()
        assert gains.gain.abs().sum() > 0
        assert (gains.size > 0).all()


def test_published_weights_go_with_the_logits() -> None:
    plain = configure(["temperature=rlkd"])
    assert (plain.temperature.base_temperature, plain.method.terms.kd.weight) == (4.0, 0.9)
    config = configure(["temperature=rlkd", "temperature.over=standardised"])
    published = configure(["temperature=standardised"])
    assert config.temperature.base_temperature == published.temperature.base_temperature == 2.0
    assert config.method.terms.kd.weight == published.method.terms.kd.weight == 9.0


def test_the_weights_and_statistics_are_those_of_a_run_that_does_not_look(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The greedy control among one temperature: it looks at every step, and changes nothing."""
    alike = ("data.limit=64", "probe.size=16", "trainer.epochs=2")
    one = ("temperature=look_ahead", "temperature.temperatures=[4]", "temperature.warmup_epochs=0")
    looking, plain = RunFolder(tmp_path / "looking"), RunFolder(tmp_path / "plain")
    running.distill(tiny(teacher_file, looking.path, *alike, *one), console=silent())
    constant = tiny(teacher_file, plain.path, *alike, "temperature=constant")
    running.distill(constant, console=silent())
    assert looking.student.read_bytes() == plain.student.read_bytes()


def test_a_loss_without_a_temperature_has_nothing_to_look_at(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    words = tiny(teacher_file, tmp_path / "run", *LOOKING, "method=at", "~method.terms.kd")
    assert_told(refuse("distill", *words), "no term of this method has one: give method=kd, or")


def test_a_loss_that_sees_more_of_the_student_is_refused(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    words = tiny(teacher_file, tmp_path / "run", *LOOKING, "method=mlkd")
    assert_told(refuse("distill", *words), "asks for student_logits_strong too: give method=kd")


def test_a_callback_cannot_look_ahead() -> None:
    probe = torch.randn(4, 1, 8, 8), torch.arange(4)
    with pytest.raises(UserError, match=r"use rlkd\.agent\.LookAhead in your training_step"):
        TemperatureCallback(GreedyLookAhead(), probe=probe)


def test_a_trial_step_looks_ahead_too(tmp_path: Path, teacher_file: Path) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", *LOOKING, "temperature.warmup_epochs=0")
    options = trainer_options(config)
    module = build.task(config).prepare(config, options).module
    module.try_step(next(iter(module.loader)))  # pyright: ignore
    assert module.temperature is not None
    assert module.temperature.updates == 1


def test_a_wrong_choice_is_refused(refuse: Refuse, teacher_file: Path, tmp_path: Path) -> None:
    for words, told in (
        ("temperature.held_out=f1", "held_out=f1: choose one of cross_entropy, soft_error"),
        ("temperature.over=raw", "over=raw: choose one of plain, standardised, normkd, dtkd"),
        ("temperature.group_size=0", "group_size=0"),
        ("probe.size=0", "needs images: give a probe.size above 0"),
        ("probe.source=test", "probe.source=test: choose held_out or upcoming"),
        ("temperature.state=[age]", "state: age is no feature: choose of teacher_entropy, "),
        ("temperature.state=more", "state=more: give paper, extended, or a list of "),
        ("temperature.state=[]", r"state=\[\]: give paper, extended, or a list of "),
        ("temperature.state=null", "state=None: give paper, extended, or a list of "),
        ("temperature.state={epoch:1}", "give paper, extended, or a list of "),
    ):
        assert_told(refuse("distill", *tiny(teacher_file, tmp_path / "run", *LOOKING, words)), told)


def test_other_rewards_look_at_no_upcoming_batch_and_have_one_action(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    for word, told in (
        ("probe.source=upcoming", "probe.source=upcoming is for temperatures that look ahead"),
        ("temperature.two_actions=true", "two_actions=true is for reward_source=look_ahead"),
    ):
        words = tiny(teacher_file, tmp_path / "run", *SOURCES["rlkd"], word)
        assert_told(refuse("distill", *words), told)
    more = (*SOURCES["rlkd, seeing more"], "trainer.accumulate=2")
    words = tiny(teacher_file, tmp_path / "run", *more)
    assert_told(
        refuse("distill", *words), "looks at the next batch, which here is of the same step"
    )


def test_it_looks_at_the_batch_that_comes_next(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of an epoch's images is looked at once it was trained on, and none is held out."""
    trained: list[Tensor] = []
    looks: list[tuple[int, Tensor]] = []
    step, look = StudentModule.training_step, forwards.moving

    def kept_step(self: StudentModule, batch: Any, number: int) -> None:
        trained.append(batch.image)
        step(self, batch, number)

    def kept_look(student: Any, image: Tensor, held: Tensor, target: Tensor, kind: Any) -> Tensor:
        looks.append((len(trained), held))
        return look(student, image, held, target, kind)

    monkeypatch.setattr(StudentModule, "training_step", kept_step)
    monkeypatch.setattr(forwards, "moving", kept_look)
    more = SOURCES["rlkd, seeing more"], "temperature.probe_interval=1"
    config = tiny_config(teacher_file, tmp_path / "run", *more[0], more[1])
    result = running.run(config, console=silent())
    assert result.images.probe == 0
    batches = len(trained) // config.trainer.epochs
    after_warmup = range(batches + 1, len(trained) + 1)
    assert [number for number, _ in looks] == [n for n in after_warmup if n % batches]
    for number, held in looks:
        assert torch.equal(held, trained[number])


def test_gradients_that_are_held_stay(tmp_path: Path) -> None:
    """A look-ahead between two passes of a step leaves what the first has accumulated."""
    from rlkd.agent import LookAhead

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    image, target = torch.randn(6, 3, 2, 2), torch.arange(6) % 3
    torch.nn.functional.cross_entropy(network(image), target).backward()
    before = [each.grad.clone() for each in network.parameters() if each.grad is not None]
    LookAhead(network, image, target, at_once=3)(image, turn=0)
    after = [each.grad for each in network.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("source", "measured"), [("rlkd", True), ("constant", False), ("rlkd, seeing more", False)]
)
def test_the_loss_on_the_probe_stands_beside_that_on_the_test_split(
    source: str, measured: bool, tmp_path: Path, teacher_file: Path
) -> None:
    """Rewards that fit the images they are measured on show in it."""
    folder, said = RunFolder(tmp_path / "run"), io.StringIO()
    words = tiny(teacher_file, folder.path, *SOURCES[source], "data.limit=64", "probe.size=16")
    running.run(configure(words), console=Console(file=said, width=300))
    last = read_metrics(folder.metrics)[-1]
    config = configure(words)
    sets = load_sets(config, trainer_options(config))
    student = build.network(with_weights(config.student, folder.student), "student", sets.dataset)
    assert sets.probe is not None
    found = score(student, sets.probe, sets.dataset, trainer_options(config))
    assert last["probe/loss"] == pytest.approx(found.loss, rel=1e-5)
    line = f"loss on the probe's 16 images, which rewards are measured on: {last['probe/loss']:.4f}"
    assert (line in said.getvalue()) == measured
