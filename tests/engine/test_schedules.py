"""Schedules stepped once a step, and runs that end by their number of steps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.support.runs import as_users_call, metrics_but_time, silent
from torch import nn

from rlkd.config.compose import configure
from rlkd.engine import run as running
from rlkd.engine.lr_schedules import warmup_multistep
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import DetectionScores, Result


def rates(steps: int, **options: object) -> list[float]:
    """The rate that each step of a run is made with, from a base of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_multistep(optimizer, total_steps=steps, **options)  # pyright: ignore[reportArgumentType]
    found: list[float] = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_and_drops_as_computed_by_hand() -> None:
    # Of 20 steps 4 rise, from 0.2 by 0.8 / 4 = 0.2 each; the first at the full rate is step 4.
    # From step 10 on x 0.5, from step 15 on again.
    found = rates(20, warmup=0.2, warmup_factor=0.2, milestones=(0.5, 0.75), gamma=0.5)
    expected = [0.2, 0.4, 0.6, 0.8, *[1.0] * 6, *[0.5] * 5, *[0.25] * 5]
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_fields_schedule_at_its_steps() -> None:
    # detectron2's WarmupMultiStepLR: 1,000 of 180,000 steps, drops at 120,000 and 160,000
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    options = {"warmup": 1 / 180, "milestones": [2 / 3, 8 / 9]}
    schedule = warmup_multistep(optimizer, total_steps=180_000, **options)  # pyright: ignore[reportArgumentType]
    (factor,) = schedule.lr_lambdas
    # 0.001 (1 - a) + a at a = step / 1,000
    by_hand = {0: 0.001, 1: 0.001999, 500: 0.5005, 999: 0.999001, 1_000: 1, 119_999: 1}
    by_hand |= {120_000: 0.1, 159_999: 0.1, 160_000: 0.01, 179_999: 0.01}
    for step, expected in by_hand.items():
        assert factor(step) == pytest.approx(expected, rel=1e-12), step


def test_without_warm_up_and_milestones_the_rate_stays() -> None:
    assert rates(5) == [1.0] * 5


def test_a_warm_up_of_less_than_half_a_step_is_none() -> None:
    assert rates(10, warmup=0.04, warmup_factor=0.5) == [1.0] * 10


def test_a_run_that_only_warms_up_ends_just_below_the_full_rate() -> None:
    assert rates(4, warmup=1.0, warmup_factor=0.5) == pytest.approx([0.5, 0.625, 0.75, 0.875])


def test_a_milestone_within_the_warm_up_counts() -> None:
    # (0.5, 0.75) rise, x 0.1 from step 1 on
    found = rates(4, warmup=0.5, warmup_factor=0.5, milestones=(0.25,))
    assert found == pytest.approx([0.5, 0.075, 0.1, 0.1])


def test_every_group_of_parameters_keeps_its_own_rate() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    schedule = warmup_multistep(optimizer, total_steps=10, warmup=0.2, warmup_factor=0.5)
    assert [each["lr"] for each in optimizer.param_groups] == pytest.approx([0.5, 0.05])
    optimizer.step()
    schedule.step()
    assert [each["lr"] for each in optimizer.param_groups] == pytest.approx([0.75, 0.075])


def test_a_schedule_goes_on_where_a_checkpoint_stopped() -> None:
    def make() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        options = {"warmup": 0.2, "milestones": [0.5]}
        return optimizer, warmup_multistep(optimizer, total_steps=20, **options)  # pyright: ignore[reportArgumentType]

    optimizer, schedule = make()
    for _ in range(9):
        optimizer.step()
        schedule.step()
    resumed_optimizer, resumed = make()
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for one, its in ((optimizer, schedule), (resumed_optimizer, resumed)):
        one.step()
        its.step()
    assert schedule.get_last_lr() == resumed.get_last_lr() == pytest.approx([0.1])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"warmup": -0.1}, r"warmup=-0.1: give a number from 0 to 1"),
        ({"warmup": 1.5}, "warmup=1.5: give a number from 0 to 1"),
        ({"milestones": [120_000.0]}, r"milestones=120000.0: give a number from 0 to 1"),
        ({"warmup_factor": 0.0}, "warmup_factor=0.0: give"),
        ({"warmup_factor": 1.5}, "warmup_factor=1.5: give"),
        ({"gamma": 0.0}, "gamma=0.0: give"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rates(10, **options)


Run = Callable[..., tuple[Result, RunFolder]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Train a tiny detector on ten scenes, five steps an epoch, for two epochs."""

    def run(*overrides: str) -> tuple[Result, RunFolder]:
        settings = (
            *("task=detection", "method=alone", "teacher=none", "temperature=constant"),
            *("data.train=10", "data.test=2", "data.size=64", "task.detector.min_size=64"),
            *("task.detector.regions_per_image=16", "trainer.batch_size=2", "trainer.epochs=2"),
            *("trainer.threads=1", "trainer.accelerator=cpu", f"output='{tmp_path / 'run'}'"),
        )
        with as_users_call():
            result = running.run(configure([*settings, *overrides]), console=silent())
        return result, RunFolder(tmp_path / "run")

    return run


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the rate of every step of a run."""
    step, noted = StudentModule._step_student, []

    def spy(self: StudentModule, loss: torch.Tensor) -> bool:
        noted.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return step(self, loss)

    monkeypatch.setattr(StudentModule, "_step_student", spy)
    return noted


def test_a_run_takes_a_step_of_the_schedule_with_each_of_its_own(
    run: Run, stepped: list[float]
) -> None:
    run("optimizer.lr=0.01", "scheduler.warmup=0.2", "scheduler.warmup_factor=0.5")
    # ten steps: two rise; x 0.1 from step 7 (6.67) and 9 (8.89)
    by_hand = [0.005, 0.0075, *[0.01] * 5, *[0.001] * 2, 0.0001]
    assert stepped == pytest.approx(by_hand)


def test_a_run_that_ends_within_an_epoch_is_whole(run: Run, stepped: list[float]) -> None:
    result, folder = run("trainer.max_steps=8", "trainer.evaluate_every=10", "scheduler.warmup=0.2")
    # eight steps: two (1.6) rise from a thousandth; drops at 5 (5.33) and 7 (7.11)
    by_hand = [0.00001, 0.005005, *[0.01] * 3, *[0.001] * 2, 0.0001]
    assert stepped == pytest.approx(by_hand)
    first, last = metrics_but_time(folder.metrics)
    assert first["test/ap"] == ""
    assert isinstance(result.test, DetectionScores)
    assert float(last["test/ap"]) == result.test.ap
    assert float(last["train/loss"]) > 0
    assert Result.read(folder.result).test.figures() == pytest.approx(
        result.test.figures(), nan_ok=True
    )
    held = torch.load(folder.checkpoint, weights_only=True)
    assert held["global_step"] == 8
    for name, tensor in load_file(folder.student).items():
        assert torch.equal(tensor, held["state_dict"][f"student.{name}"])
    assert folder.report.is_file()


def test_a_run_that_ends_before_its_last_epoch_says_how_many_it_made(run: Run) -> None:
    result, folder = run("trainer.max_steps=3", "trainer.evaluate_every=10")
    (row,) = metrics_but_time(folder.metrics)
    assert result.epochs == 1
    assert isinstance(result.test, DetectionScores)
    assert float(row["test/ap"]) == result.test.ap


@pytest.mark.long
def test_a_run_that_was_killed_after_its_last_step_is_finished_by_the_same_command(
    run: Run,
) -> None:
    result, folder = run("trainer.max_steps=8")
    rows = metrics_but_time(folder.metrics)
    for path in (folder.result, folder.report, folder.metrics, folder.student):
        path.unlink()
    again, _ = run("trainer.max_steps=8")
    assert again.test.figures() == pytest.approx(result.test.figures(), nan_ok=True)
    assert metrics_but_time(folder.metrics) == rows
