"""The training step: who sees what, and what each switch leaves out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tests.marks import but_long
from tests.support.runs import SOURCES, metrics_but_time, silent, tiny_config
from torch import Tensor

from rlkd.agent.rollout import Rollout, Trajectory
from rlkd.data import MemoryLoader
from rlkd.engine import build
from rlkd.engine import run as running
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.exploration import Explored
from rlkd.reporting import Result
from rlkd.tasks.classification.data import load_sets
from rlkd.tasks.classification.forward import ClassifierForward
from rlkd.types import Batch

pytestmark = pytest.mark.usefixtures("plainly")


@dataclass
class Observed:
    """What a spy saw of a run."""

    distiller: list[StudentModule] = field(default_factory=list[StudentModule])
    explored: list[tuple[int, Explored, Tensor]] = field(
        default_factory=list[tuple[int, Explored, Tensor]]
    )
    """Of each step: its epoch, the explored batch, and S_e among all rows."""
    trajectories: list[list[Trajectory]] = field(default_factory=list[list[Trajectory]])


Distill = Callable[..., tuple[Result, Observed]]


@pytest.fixture
def distill(teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distill:
    """Run a tiny distillation under observation."""

    def distill(*overrides: str) -> tuple[Result, Observed]:
        observed = Observed()
        explore, stack, measure = (
            StudentModule._explore,
            Rollout.stack,
            StudentModule.on_train_start,
        )

        def spy_on_start(self: StudentModule) -> None:
            observed.distiller.append(self)
            measure(self)

        def spy_on_exploring(self: StudentModule, batch: Batch) -> Explored:
            explored = explore(self, batch)
            selected = torch.empty(0) if self.explorer is None else self.explorer.selected.clone()
            observed.explored.append((self.current_epoch + 1, explored, selected))
            return explored

        def spy_on_stacking(trajectories: list[Trajectory]) -> Rollout:
            observed.trajectories.append(list(trajectories))
            return stack(trajectories)

        with monkeypatch.context() as patched:
            patched.setattr(StudentModule, "on_train_start", spy_on_start)
            patched.setattr(StudentModule, "_explore", spy_on_exploring)
            patched.setattr(Rollout, "stack", spy_on_stacking)
            config = tiny_config(teacher_file, tmp_path / "run", *overrides)
            return running.run(config, console=silent()), observed

    return distill


def images_of(module: StudentModule) -> int:
    assert isinstance(module.loader, MemoryLoader)
    return len(module.loader.images)


def pixels(images: Tensor) -> set[bytes]:
    return {bytes(image.numpy().tobytes()) for image in images}


def test_images_that_are_held_out_are_never_trained_on(teacher_file: Path, tmp_path: Path) -> None:
    config = tiny_config(
        teacher_file,
        tmp_path,
        "temperature=rlkd",
        "data.limit=null",
        "probe.size=200",
        "trainer.validation_size=100",
    )
    sets = load_sets(config, build.trainer_options(config))
    assert sets.probe is not None
    assert sets.validation is not None
    parts = [sets.train.image, sets.validation.image, sets.probe.image]
    assert [len(part) for part in parts] == [1437 - 300, 100, 200]
    assert len(pixels(sets.dataset.train.image)) == 1437  # no image is there twice
    assert pixels(torch.cat(parts)) == pixels(sets.dataset.train.image)
    assert not pixels(torch.cat(parts)) & pixels(sets.test.image)


def test_the_probe_and_the_loader_hold_what_the_sets_say(distill: Distill) -> None:
    _, observed = distill(*SOURCES["rlkd"])
    (distiller,) = observed.distiller
    assert isinstance(distiller.forward_pass, ClassifierForward)
    assert distiller.forward_pass.probe is not None
    assert len(distiller.forward_pass.probe.image) == 16
    assert images_of(distiller) == 48
    seen = torch.cat([explored.batch.index for _, explored, _ in observed.explored])
    assert torch.bincount(seen).tolist() == [3] * 48  # each row once in each of three epochs


def test_the_result_is_of_the_last_epoch(distill: Distill, tmp_path: Path) -> None:
    result, _ = distill(*SOURCES["rlkd"], "trainer.epochs=6", "trainer.validation_size=16")
    folder = RunFolder(tmp_path / "run")
    rows = metrics_but_time(folder.metrics)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["test/top1"]) == result.test.top1
    assert float(rows[-1]["test/loss"]) == result.test.loss
    assert result.validation is not None
    assert float(rows[-1]["validation/top1"]) == result.validation.top1
    last = torch.load(folder.checkpoint, weights_only=True)["state_dict"]
    assert result == Result.read(folder.result)
    from safetensors.torch import load_file

    for name, tensor in load_file(folder.student).items():
        assert torch.equal(tensor, last[f"student.{name}"])


def test_training_changes_the_student_and_not_the_teacher(
    distill: Distill, teacher_file: Path
) -> None:
    _, observed = distill(*SOURCES["rlkd"])
    (distiller,) = observed.distiller
    assert distiller.teacher is not None
    (teacher,) = distiller.teacher._unregistered  # pyright: ignore[reportPrivateUsage]
    for name, tensor in torch.load(teacher_file)["model"].items():
        assert torch.equal(teacher.state_dict()[name], tensor), name
    assert not teacher.training
    assert not [name for name in distiller.state_dict() if name.startswith("teacher")]
    trained = {id(each) for each in distiller.trainer.optimizers[0].param_groups[0]["params"]}
    assert trained == {id(each) for each in distiller.student.parameters()}


def test_in_explored_epochs_the_agent_learns_from_the_selected_rows_alone(
    distill: Distill,
) -> None:
    _, observed = distill(*SOURCES["rlkd"], "temperature.probe_interval=1", "probe.size=14")
    explored_epochs = [each for each in observed.explored if each[0] == 2]
    assert len(explored_epochs) == 4
    rows = mixed_rows = 0
    for _, explored, selected in explored_epochs:
        assert explored.learn_from is not None
        assert torch.equal(explored.learn_from, selected[explored.batch.index])
        assert explored.mixed is not None
        assert not (explored.mixed & ~explored.learn_from).any()  # the mixed band is part of S_e
        target = explored.batch.target
        assert target.shape == (len(explored.batch.index), 10)
        assert torch.allclose(target.sum(dim=1), torch.ones(len(target)))
        assert (target[~explored.mixed].amax(dim=1) == 1).all()
        share = target[explored.mixed].amax(dim=1)  # 0.7, or 1 where both have the same class
        assert ((share - 0.7).abs() < 1e-6).logical_or((share - 1).abs() < 1e-6).all()
        rows += int(explored.learn_from.sum())
        mixed_rows += int(explored.mixed.sum())
    assert rows == 10  # 20 % of 50
    assert mixed_rows == 5  # 10 % of 50
    for epoch, explored, _ in observed.explored:
        if epoch != 2:
            assert explored.learn_from is None
            assert explored.mixed is None
            assert explored.batch.target.dim() == 1
    taken = [t.mask.sum().item() for each in observed.trajectories for t in each]
    by_step = [int(e.learn_from.sum()) for _, e, _ in explored_epochs if e.learn_from is not None]
    # The first reward needs a probe before it; from then on each update has a trajectory.
    assert taken[:3] == by_step[1:]
    assert taken[3:7] == [len(e.batch.index) for epoch, e, _ in observed.explored if epoch == 3]


def test_the_selected_rows_have_the_highest_entropy(distill: Distill) -> None:
    _, observed = distill(*SOURCES["rlkd_paper"], "trainer.epochs=2")
    (distiller,) = observed.distiller
    explorer = distiller.explorer
    assert explorer is not None
    assert explorer.record.entropy.gt(0).all()  # recorded for every row on the way
    assert int(explorer.selected.sum()) == 10  # 20 % of 48, rounded


Switch = tuple[tuple[str, ...], Callable[[dict[str, str], Observed], bool]]
LEARNS = ("temperature.warmup_epochs=0", "temperature.update_interval=1", "trainer.epochs=1")


def column(row: dict[str, str], name: str) -> float:
    return float(row[f"agent/{name}"])


SWITCHES: dict[str, Switch] = {
    "all on": ((), lambda row, _: "agent/corrector_loss" in row and "agent/updater_loss" in row),
    "no calibration": (
        ("temperature.calibration=none",),
        lambda row, _: (
            "agent/corrector_loss" not in row
            and column(row, "reward_calibrated_std") == column(row, "reward_even_std")
        ),
    ),
    "recurrent calibration": (
        ("temperature.calibration=recurrent",),
        lambda row, _: "agent/corrector_loss" in row,
    ),
    "additive calibration": (
        ("temperature.calibration=additive",),
        lambda row, _: "agent/corrector_loss" in row,
    ),
    "no state updater": (
        ("temperature.state_updater=false",),
        lambda row, _: "agent/updater_loss" not in row,
    ),
    "no gate": (
        ("temperature.gate=false",),
        lambda row, _: column(row, "reward") == column(row, "reward_gated"),
    ),
    "no exploration": (
        ("exploration.enabled=false",),
        lambda _, seen: all(each.learn_from is None for _, each, _ in seen.explored),
    ),
}


@pytest.mark.parametrize("switch", but_long(SWITCHES, *list(SWITCHES)[::2]))
def test_each_part_is_switched_by_one_value(switch: str, distill: Distill, tmp_path: Path) -> None:
    overrides, holds = SWITCHES[switch]
    _, observed = distill(*SOURCES["rlkd"], "temperature.probe_interval=1", *LEARNS, *overrides)
    assert len(observed.explored) == 3
    (row,) = metrics_but_time(RunFolder(tmp_path / "run").metrics)
    assert len(observed.trajectories) == 2
    assert holds(row, observed)
    if switch != "no gate":
        assert column(row, "reward") != column(row, "reward_gated")
    if switch != "no exploration":
        assert all(each.learn_from is not None for _, each, _ in observed.explored)


def test_a_method_without_a_teacher_term_trains_alone(distill: Distill, tmp_path: Path) -> None:
    result, observed = distill("method=alone", "teacher=none", "temperature=constant")
    (distiller,) = observed.distiller
    assert distiller.teacher is None
    assert distiller.temperature is None
    assert result.teacher is None
    assert "temperature/mean" not in metrics_but_time(tmp_path / "run" / "metrics.csv")[0]


@pytest.mark.parametrize(
    "options", [("trainer.precision=bf16-mixed",), ("trainer.channels_last=true",)]
)
def test_precision_and_layout_are_options(options: tuple[str, ...], distill: Distill) -> None:
    result, observed = distill(*SOURCES["rlkd"], *options)
    assert result.epochs == 3
    (distiller,) = observed.distiller
    assert all(each.dtype == torch.float32 for each in distiller.student.parameters())


@pytest.mark.parametrize("probe", [(), ("probe.size=16",)])
def test_a_student_that_stands_still_is_paid_nothing_for_the_same_batch(
    probe: tuple[str, ...], distill: Distill, tmp_path: Path
) -> None:
    still = ("optimizer.lr=0", "temperature.reward_source=same_batch", "temperature.gate=false")
    source = ("temperature=rlkd", "data.limit=64", "temperature.metric=loss", *still, *probe)
    _, observed = distill(*source, *LEARNS)
    row = metrics_but_time(RunFolder(tmp_path / "run").metrics)[-1]
    assert abs(column(row, "reward")) < 1e-6  # in nats; two sets differ by a hundredth
    assert abs(column(row, "reward_std")) < 1e-6
    (distiller,) = observed.distiller
    assert images_of(distiller) == (48 if probe else 64)


@pytest.mark.parametrize("source", ["rlkd", "rlkd_paper"])
def test_images_held_out_for_no_reward_are_reported(
    source: str, teacher_file: Path, tmp_path: Path
) -> None:
    console = silent()
    overrides = (f"temperature={source}", "data.limit=64", "probe.size=16", "trainer.max_steps=1")
    running.run(tiny_config(teacher_file, tmp_path / "run", *overrides), console=console)
    printed: str = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    told = "probe.size=16 holds as many training images out, though no reward is measured on them"
    assert (told in printed) == (source == "rlkd_paper")


def test_a_probe_reward_without_a_probe_is_refused(distill: Distill) -> None:
    with pytest.raises(UserError, match=r"needs images: give a probe.size above 0"):
        distill(*SOURCES["rlkd"], "probe.size=0")
