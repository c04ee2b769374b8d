"""Two ranks train as one process does that sees the whole batch."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import rank_run
from tests.support.detection_runs import write_detector
from tests.support.runs import as_users_call, silent
from torch import nn
from torch.testing import assert_close

from rlkd import distributed
from rlkd.commands.compare import compare
from rlkd.engine.launch import Launch, lost
from rlkd.engine.run import train
from rlkd.engine.sync_norm import synchronised
from rlkd.errors import UserError

Ranks = list[dict[str, Any]]
# In one process of the tests, so that the two ranks run once.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ranks")]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has learnt: the logits of random weights make the student's way chaotic."""
    place = tmp_path_factory.mktemp("teacher") / "run"
    settings = ["student=convnet_small", "trainer.epochs=2", "trainer.threads=1"]
    with as_users_call():
        train([*settings, "trainer.accelerator=cpu", f"output='{place}'"], console=silent())
        write_detector(rank_run.detector_beside(place / "student.safetensors").with_suffix(""))
    return place / "student.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def both(place: Path, teacher: Path) -> Ranks:
    """What each of two ranks left."""
    root = Path(__file__).parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, rank_run.__file__, str(place), str(teacher)],
        env=os.environ
        | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(place / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.filterwarnings("ignore:task.class_weights is of the labels")
@pytest.mark.parametrize("cell", rank_run.CELLS)
def test_two_ranks_are_one_process_on_the_whole_batch(
    cell: str, both: Ranks, teacher: Path, tmp_path: Path
) -> None:
    more = rank_run.CELLS[cell]
    with as_users_call():
        alone = rank_run.watched(rank_run.overrides(teacher, tmp_path / "run", *more))
    first, second = (each[cell] for each in both)
    steps = [int(each[18:]) for each in more if each.startswith("trainer.max_steps=")]
    passes = 2 if "trainer.accumulate=2" in more else 1
    # A look-ahead is a difference of passes 1e-5 apart, which magnifies their rounding.
    looks = "temperature.reward_source=look_ahead" in more
    if steps:
        assert len(alone["temperatures"]) == len(first["temperatures"]) == steps[0] * passes
    else:  # each of its epochs has 4; it learns nothing, so that it stops before the last
        assert len(alone["temperatures"]) == len(first["temperatures"]) < 9 * 4
    for whole, *parts in zip(
        alone["temperatures"], first["temperatures"], second["temperatures"], strict=True
    ):
        assert_close(torch.cat(parts), whole, atol=1e-5, rtol=5e-3 if looks else 0)
    for name, weight in alone["student"].items():
        assert_close(first["student"][name], weight, atol=1e-3 if looks else 1e-4, rtol=0)
    assert alone["temperatures"][-1].std() > 0 or cell in (
        "constant",
        "held back",
        "stopped early",
        "trained along",
        "with a memory bank",
        "detector",
    )
    if alone["entropy"] is not None:
        assert_close(first["entropy"], alone["entropy"], atol=1e-4, rtol=0, equal_nan=True)
    for one, other in zip(first["metrics"], alone["metrics"], strict=True):
        terms = [each for each in other if each.startswith("train/loss")]
        assert {"train/loss_cross_entropy", "train/loss_kd"} < {*terms}
        for column in (*terms, "train/accuracy", "test/top1", "test/ap", "temperature/mean"):
            near = pytest.approx(other.get(column), abs=1e-2 if looks else 1e-4)
            assert one.get(column) == near, column


@pytest.mark.parametrize("cell", rank_run.CELLS)
def test_ranks_are_alike_to_the_bit(cell: str, both: Ranks) -> None:
    first, second = (each[cell] for each in both)
    assert first["source"] == second["source"]
    for name, weight in first["student"].items():
        assert torch.equal(weight, second["student"][name]), name
    if first["entropy"] is not None:
        assert torch.equal(first["entropy"].nan_to_num(-1), second["entropy"].nan_to_num(-1))


def test_all_ranks_stop_when_one_is_told_to_and_one_process_goes_on(
    both: Ranks, place: Path, teacher: Path, tmp_path: Path
) -> None:
    for each in both:
        assert "goes on" in each["scenes"]["stopped"]
    with as_users_call():
        went_on = rank_run.watched(rank_run.overrides(teacher, place / "broken", *rank_run.BROKEN))
        unbroken = rank_run.watched(
            rank_run.overrides(teacher, tmp_path / "unbroken", *rank_run.BROKEN)
        )
    assert 0 < len(went_on["temperatures"]) < len(unbroken["temperatures"])
    for name, weight in unbroken["student"].items():
        assert_close(went_on["student"][name], weight, atol=1e-4, rtol=0)
    for row in ("train/loss", "train/accuracy"):
        assert went_on["metrics"][-1][row] == pytest.approx(unbroken["metrics"][-1][row], abs=1e-4)


def test_two_ranks_that_were_stopped_go_on_to_the_bit(both: Ranks) -> None:
    for each in both:
        went_on, unbroken = each["scenes"]["went on"], each["unbroken"]
        assert 0 < len(went_on["temperatures"]) <= len(unbroken["temperatures"]) - 7
        assert went_on["source"] == unbroken["source"]
        for name, weight in unbroken["student"].items():
            assert torch.equal(went_on["student"][name], weight), name
    went_on, unbroken = both[0]["scenes"]["went on"]["metrics"], both[0]["unbroken"]["metrics"]
    for row, other in zip(went_on, unbroken, strict=True):
        for column in row:
            if column not in ("images_per_second", "time/data_share"):
                assert row[column] == other[column], column


def test_ranks_with_different_data_are_told_apart(both: Ranks) -> None:
    for each in both:
        line = each["scenes"]["different data"]
        assert "training images: 1023 of rank 1 and 1024 of rank 0" in line


@pytest.mark.parametrize(
    ("scene", "told"),
    [
        ("odd batch", "trainer.batch_size"),
        ("in use", "held is in use by a process: wait for it with lock=wait"),
    ],
)
def test_what_does_not_suit_ranks_is_refused(scene: str, told: str, both: Ranks) -> None:
    assert all(told in each["scenes"][scene] for each in both)


def test_synchronised_norms_are_those_of_the_whole_batch(both: Ranks) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.uniform_()
    rows = rank_run.rows_for_norm().requires_grad_()
    output = norm(rows)
    output.sin().mean().backward()
    expected = {
        "output": output.detach(),
        "input gradient": rows.grad,
        "weight gradient": norm.weight.grad,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
    }
    for each in both:
        for name, value in expected.items():
            assert_close(each["scenes"]["norm"][name], value, atol=1e-12, rtol=1e-9)


def test_synchronising_keeps_what_a_norm_does_besides() -> None:
    layers = pytest.importorskip("timm.layers")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layers.BatchNormAct2d(4), nn.BatchNorm2d(4))
    image = torch.randn(2, 3, 8, 8)
    for training in (False, True):
        expected = network.train(training)(image)
        made = synchronised(copy.deepcopy(network), torch.device("cuda"))
        assert_close(made(image), expected)
        assert made.state_dict().keys() == network.state_dict().keys()
        assert all(isinstance(each, nn.SyncBatchNorm) for each in list(made.children())[1:])


def test_a_norm_of_its_own_kind_is_not_synchronised() -> None:
    class Doubling(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    with pytest.raises(UserError, match="sync_batch_norm=true does not know what Doubling does"):
        synchronised(nn.Sequential(Doubling(3)), torch.device("cuda"))


def test_norms_are_not_synchronised_on_a_cpu() -> None:
    with pytest.raises(UserError, match="sync_batch_norm=true needs GPUs"):
        synchronised(nn.BatchNorm2d(3), torch.device("cpu"))


LAUNCHED = {
    "torchrun": {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    "srun": {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_NTASKS": "8",
        "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
    },
}


def launched(monkeypatch: pytest.MonkeyPatch, by: str, **more: str) -> Launch:
    variables = LAUNCHED[by] | more
    if by == "torchrun":
        variables |= {"TORCHELASTIC_RUN_ID": "a", "GROUP_RANK": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Launch.found()


@pytest.mark.parametrize("by", LAUNCHED)
def test_ranks_are_found(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = launched(monkeypatch, by)
    assert (launch.per_node, launch.nodes) == (4, 2)
    assert launch.environment is not None
    assert launch.environment.global_rank() == 5


def test_a_batch_script_without_srun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = launched(monkeypatch, "srun", SLURM_STEP_NUM_TASKS="1")
    assert launch == Launch(None, 1, 1)


def test_machines_with_other_numbers_of_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="not as many on each machine"):
        launched(monkeypatch, "torchrun", WORLD_SIZE="6")


def test_a_comparison_is_not_started_as_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, "torchrun")
    with pytest.raises(UserError, match="without torchrun"):
        compare(["temperature=constant,random"], console=silent())


def test_agents_in_somebodys_module_stay_alike(both: Ranks) -> None:
    first, second = (each["scenes"]["somebody's module"] for each in both)
    assert first["updates"] > 3
    assert first == second


def test_a_process_alone_is_rank_0_of_1() -> None:
    rows = torch.arange(3)
    assert distributed.this_rank() == distributed.Rank(0, 1)
    assert distributed.gather_rows(rows) is rows
    assert distributed.sum_over_ranks(rows) is rows
    assert distributed.gather_objects("word") == ["word"]
    assert distributed.on_rank_zero(lambda: 7) == 7
    assert distributed.this_rank().share_of(rows).tolist() == [0, 1, 2]
    assert lost(RuntimeError("[gloo] Connection closed by peer")) is None


def test_each_part_has_as_many_rows() -> None:
    rows = torch.arange(7)
    parts = [distributed.Rank(rank, 3).share_of(rows).tolist() for rank in range(3)]
    assert parts == [[0, 1], [2, 3], [4, 5]]
