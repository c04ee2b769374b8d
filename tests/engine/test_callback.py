"""A temperature source in somebody else's LightningModule."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tests.marks import but_long
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import rlkd
from rlkd.engine.quiet import quiet_lightning
from rlkd.errors import UserError
from rlkd.lightning_callback import TemperatureCallback
from rlkd.temperature import GlobalCTKD, ScheduledTemperature
from rlkd.types import Temperatures

CLASSES = 3


@pytest.fixture(autouse=True)
def quietly() -> Iterator[None]:
    with quiet_lightning():
        yield


class Recording(rlkd.TemperatureSource):
    """Asks for a measurement after every batch, and learns at every fourth call."""

    def __init__(self, *, probed: bool = False) -> None:
        super().__init__()
        self.calls, self.probed = 0, probed
        self.epochs = list[int]()
        self.scored = list[tuple[Tensor, Tensor]]()
        self.observed = list[Tensor]()

    @property
    def observation_due(self) -> bool:
        return True

    @property
    def needs_probe(self) -> bool:
        return self.probed

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor, **_: Any
    ) -> Temperatures:
        self.calls += 1
        self.updates = self.calls // 4
        return Temperatures.constant(4.0, like=student_logits)

    def start_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def performance(self, student_logits: Tensor, target: Tensor) -> Tensor:
        self.scored.append((student_logits, target))
        return torch.tensor(float(len(self.scored)))

    def observe(self, performance_after: Tensor) -> None:
        self.observed.append(performance_after)

    def diagnostics(self) -> dict[str, Tensor]:
        called = torch.tensor(float(self.calls))
        return {"temperature_mean": called, "reward": 10 * called}


class Module(L.LightningModule):
    """A user's own: a linear student of four pixels, its weights kept as they are each step."""

    def __init__(self, source: rlkd.TemperatureSource, *, hold: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES, bias=False))
        self.teacher = rlkd.models.Teacher(nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)))
        self.held = source if hold else None
        self.source = lambda *given: source(*given)
        self.all_parameters = False
        self.weights = list[Tensor]()
        self.temperatures = list[Tensor]()

    def forward(self, image: Tensor) -> Tensor:
        return self.student(image)

    def training_step(self, batch: Any, _: int) -> Tensor:
        image, target = batch.values() if isinstance(batch, dict) else batch
        self.weights.append(self.student[1].weight.detach().clone())
        student_logits, teacher_logits = self(image), self.teacher(image)
        temperature = self.source(student_logits, teacher_logits, target)
        self.temperatures.append(temperature.student.detach())
        return rlkd.losses.kd(student_logits, teacher_logits, temperature)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        along = () if self.held is None else self.held.trained_parameters()
        trained = [*self.student.parameters(), *along]
        return torch.optim.SGD(self.parameters() if self.all_parameters else trained, lr=0.1)


def instances(count: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, 2, 2, generator=generator)
    return images, torch.arange(count) % CLASSES


def fit(
    module: Module,
    *callbacks: L.Callback,
    epochs: int = 1,
    resume: Path | None = None,
    loader: Any = None,
    **options: Any,
) -> L.Trainer:
    """Train on four batches of eight an epoch."""
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    loader = loader or DataLoader(TensorDataset(*instances()), batch_size=8)
    trainer.fit(module, loader, ckpt_path=resume)
    return trainer


def test_the_source_is_told_each_epoch_from_one() -> None:
    source = Recording()
    fit(Module(source), TemperatureCallback(source), epochs=3)
    assert source.epochs == [1, 2, 3]


def test_the_probe_is_scored_with_the_weights_that_a_step_ends_in() -> None:
    source = Recording(probed=True)
    module = Module(source)
    pixels, classes = torch.eye(4).view(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    fit(module, TemperatureCallback(source, probe=(pixels, classes)))
    # The logits of unit images are the columns of the weights.
    after = [*module.weights[1:], module.student[1].weight.detach()]
    assert not torch.equal(after[0], module.weights[0])
    for weight, (logits, target) in zip(after, source.scored, strict=True):
        torch.testing.assert_close(logits, weight.T)
        assert target is classes
    assert source.observed == [1, 2, 3, 4]  # what `performance` gave goes to `observe`


@pytest.mark.parametrize("probe", [None, instances(12)])
def test_a_source_that_needs_no_probe_is_scored_on_the_batch_just_trained_on(
    probe: tuple[Tensor, Tensor] | None,
) -> None:
    source = Recording()
    module = Module(source)
    fit(module, TemperatureCallback(source, probe=probe))
    images, targets = instances()
    logits, target = source.scored[2]
    assert torch.equal(target, targets[16:24])
    torch.testing.assert_close(logits, F.linear(images[16:24].flatten(1), module.weights[3]))


def test_accumulated_gradients_are_measured_once_a_step() -> None:
    source = Recording()
    fit(Module(source), TemperatureCallback(source), accumulate_grad_batches=2)
    assert source.calls == 4
    assert len(source.observed) == 2


def test_the_probe_follows_the_module_into_another_precision() -> None:
    source = Recording(probed=True)
    probe = instances(4)
    fit(Module(source), TemperatureCallback(source, probe=probe), precision="64-true")
    assert len(source.observed) == 4


def test_what_the_source_learnt_is_logged_as_the_mean_over_an_epoch() -> None:
    source = Recording()
    trainer = fit(Module(source), TemperatureCallback(source), epochs=2)
    assert trainer.callback_metrics == {"temperature/mean": 8, "agent/reward": 80}
    source = Recording()
    loader = DataLoader(TensorDataset(*instances(64)), batch_size=8)
    trainer = fit(Module(source), TemperatureCallback(source), loader=loader)
    assert trainer.callback_metrics == {"temperature/mean": 6, "agent/reward": 60}  # of 4 and 8


def test_nothing_is_logged_while_nothing_is_learnt() -> None:
    source = rlkd.ConstantTemperature(4.0)
    assert not fit(Module(source), TemperatureCallback(source)).callback_metrics


def agent() -> rlkd.TemperatureAgent:
    return rlkd.TemperatureAgent(
        reward_source="probe", metric="loss", probe_interval=2, update_interval=1, minibatches=1
    )


def same(one: Any, other: Any) -> bool:
    """Compare nested states to the bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("epochs_before", but_long([1, 2], 1))
def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path: Path, epochs_before: int) -> None:
    probe = instances(12)
    whole = Module(agent())
    fit(whole, TemperatureCallback(whole.held, probe=probe), epochs=3)
    assert whole.held.updates > 3
    assert len(torch.stack(whole.temperatures).unique()) > 32

    begun = Module(agent())
    trainer = fit(begun, TemperatureCallback(begun.held, probe=probe), epochs=epochs_before)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = Module(agent())
    callback = TemperatureCallback(resumed.held, probe=probe)
    fit(resumed, callback, epochs=3, resume=tmp_path / "last.ckpt")
    assert len(resumed.temperatures) == 4 * (3 - epochs_before)
    assert same(resumed.state_dict(), whole.state_dict())


class Stopped(L.Callback):
    """Saves a checkpoint after a batch, and ends the process there."""

    def __init__(self, path: Path, after: int) -> None:
        self.path, self.after = path, after

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.after:
            trainer.save_checkpoint(self.path)
            raise StoppedError


class StoppedError(Exception):
    """Stands in for a kill."""


@pytest.mark.parametrize(("after", "epochs"), [(2, [1, 2, 3]), (5, [2, 3]), (8, [3])])
def test_a_run_resumed_within_an_epoch_tells_the_source_which(
    tmp_path: Path, after: int, epochs: list[int]
) -> None:
    """Lightning starts no epoch again, nor the one after a checkpoint of the last batch."""
    source, path = Recording(), tmp_path / "last.ckpt"
    with pytest.raises(StoppedError):
        fit(Module(source), TemperatureCallback(source), Stopped(path, after), epochs=3)
    source = Recording()
    fit(Module(source), TemperatureCallback(source), epochs=3, resume=path)
    assert source.epochs == epochs


@pytest.mark.parametrize(
    "make",
    [
        lambda: rlkd.RandomTemperature(warmup_epochs=1),
        lambda: rlkd.TemperatureAgent(warmup_epochs=1, update_interval=1, minibatches=1),
        lambda: ScheduledTemperature(epochs=3),
        lambda: GlobalCTKD(lambda_epochs=3),
    ],
)
@pytest.mark.parametrize("after", but_long([2, 5, 8], 5))
def test_every_source_goes_on_within_an_epoch_as_if_it_had_not_stopped(
    make: Callable[[], rlkd.TemperatureSource], after: int, tmp_path: Path
) -> None:
    def train(module: Module, *more: L.Callback, resume: Path | None = None) -> None:
        # Lightning draws an epoch's batches from the first again: here all are alike.
        images, targets = instances(8)
        alike = TensorDataset(images.repeat(4, 1, 1, 1), targets.repeat(4))
        callback = TemperatureCallback(module.held)
        loader = DataLoader(alike, batch_size=8)
        fit(module, callback, *more, epochs=3, resume=resume, loader=loader)

    whole, path = Module(make()), tmp_path / "last.ckpt"
    train(whole)
    begun, resumed = Module(make()), Module(make())
    with pytest.raises(StoppedError):
        train(begun, Stopped(path, after))
    train(resumed, resume=path)
    assert same(resumed.temperatures, whole.temperatures[after:])
    assert same(resumed.state_dict(), whole.state_dict())


def test_a_source_that_the_optimiser_trains_is_trained_along() -> None:
    source = GlobalCTKD()
    before = [each.detach().clone() for each in source.parameters()]
    fit(Module(source), TemperatureCallback(source))
    after = list(source.parameters())
    assert any(not torch.equal(*each) for each in zip(before, after, strict=True))


def test_a_source_that_the_module_does_not_hold_is_refused() -> None:
    source = agent()
    with pytest.raises(UserError, match=r"Module does not hold .* self\.temperature = source"):
        fit(Module(source, hold=False), TemperatureCallback(source, probe=instances(4)))


def test_an_optimiser_of_the_agents_own_weights_is_refused() -> None:
    module = Module(agent())
    module.all_parameters = True
    with pytest.raises(UserError, match=r"trains itself: give it \[\*self.student.parameters"):
        fit(module, TemperatureCallback(module.held, probe=instances(4)))


def test_an_agent_that_wants_a_probe_is_refused_without_one() -> None:
    with pytest.raises(UserError, match=r"give .* probe=\(images, targets\)"):
        TemperatureCallback(agent())


def test_a_batch_of_another_form_needs_a_probe() -> None:
    images, targets = instances(8)
    rows = [{"image": each, "target": one} for each, one in zip(images, targets, strict=True)]
    batches = DataLoader(rows, batch_size=8)  # pyright: ignore[reportArgumentType]
    source = Recording()
    with pytest.raises(UserError, match="a dict does not begin with images and targets"):
        fit(Module(source), TemperatureCallback(source), loader=batches)
    source = Recording(probed=True)
    callback = TemperatureCallback(source, probe=(images, targets))
    fit(Module(source), callback, loader=batches)
    assert len(source.observed) == 1
