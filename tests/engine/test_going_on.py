"""Checkpoints that other ranks have taken."""

import multiprocessing
import signal
from pathlib import Path

import pytest
import torch
from tests.engine.test_interruption import PRELOADED

from rlkd.engine.callbacks.checkpoint import KeepLast
from rlkd.engine.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("plainly")


def test_generators_of_other_ranks_are_not_taken_and_this_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    keep = KeepLast(RunFolder(tmp_path), show=told.append)
    state = keep.state_dict()
    assert len(state["ranks"]) == 1
    keep.load_state_dict(state)
    assert not told
    keep.load_state_dict({"ranks": [*state["ranks"], *state["ranks"]]})
    (line,) = told
    assert line.startswith("this run was checkpointed by 2 ranks and goes on with 1, so it is no")
    assert "dropout" in line


def meet(rank: int, folder: Path, answers: "multiprocessing.Queue[object]") -> None:
    """Be one of two ranks: a signal came to the second only."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    keep = KeepLast(RunFolder(folder), every_minutes=1)
    module = torch.nn.Linear(1, 1)
    module.device = torch.device("cpu")  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(rank)
    drawn = torch.get_rng_state()
    if rank == 1:
        keep.signals.asked = signal.SIGUSR1
    agreed = keep._agreed(module)  # pyright: ignore
    state = keep.state_dict()
    keep.load_state_dict(state)
    own = keep._random  # pyright: ignore[reportPrivateUsage]
    assert own is not None
    answers.put((rank, agreed, len(state["ranks"]), torch.equal(own["cpu"], drawn)))
    torch.distributed.destroy_process_group()


@pytest.mark.long
def test_two_ranks_stop_alike_and_keep_a_generator_each(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")  # one for all tests
    context.set_forkserver_preload(PRELOADED)
    answers = context.Queue()
    ranks = [context.Process(target=meet, args=(rank, tmp_path, answers)) for rank in range(2)]
    for each in ranks:
        each.start()
    said = sorted(answers.get(timeout=60) for _ in ranks)
    for each in ranks:
        each.join(60)
    stop = (False, signal.SIGUSR1)
    assert said == [(0, stop, 2, True), (1, stop, 2, True)]
