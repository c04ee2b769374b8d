"""`trainer.compile`: the same training, the same names, and one line where it does not go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.gpu.parts import METHODS
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import SOURCES, metrics_but_time, silent, tiny
from torch import nn

from rlkd.config.compose import configure
from rlkd.engine import build
from rlkd.engine import compile as compiling
from rlkd.engine.compile import compiled, uncompiled
from rlkd.engine.run import distill
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("plainly")]


@pytest.fixture
def graphs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture graphs, and leave out the minute of C++ behind them."""
    monkeypatch.setattr(compiling, "_BACKEND", "eager")
    torch._dynamo.reset()


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.student)


@pytest.mark.usefixtures("graphs_alone")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's
@pytest.mark.parametrize(
    ("backend", "graphs", "settings"),
    [
        # the agent's probe is scored by batches of another size, in another mode
        (
            "aot_eager",  # with the graphs of gradients
            *(7, ("temperature=rlkd", "probe.size=16", "temperature.warmup_epochs=0")),
        ),
        ("eager", 5, ("temperature=constant", "method=at")),  # hooks on both networks
    ],
    ids=["rlkd", "features"],
)
def test_a_compiled_run_is_the_same_run(
    backend: str,
    graphs: int,
    settings: tuple[str, ...],
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "_BACKEND", backend)
    settings = (*settings, "trainer.epochs=1")
    plain, fast = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "fast")
    distill(tiny(teacher_file, plain.path, *settings), console=silent())
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    distill(tiny(teacher_file, fast.path, *settings, "trainer.compile=true"), console=silent())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + graphs
    assert not torch._dynamo.utils.counters["graph_break"]
    expected, found = weights(plain), weights(fast)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def in_own_process(*command: str) -> str:
    """Return what a module of the tests prints, where their checks of types are not: as users run.

    Such checks wrap what dataclasses are made by, and dynamo breaks its graphs there.
    """
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_losses_of_every_method_are_one_graph() -> None:
    found = dict(line.split() for line in in_own_process("tests.support.loss_graphs").splitlines())
    # A memory is empty at its first call, which is then another graph.
    assert found == dict.fromkeys(METHODS, "1") | {"crd": "2"}


STANDARDISED = ("temperature=standardised", "method=dkd", "trainer.epochs=2")
MIXED = (*SOURCES["rlkd"], "trainer.epochs=2", "data.limit=72")


@pytest.mark.parametrize(
    ("backend", "settings", "graphs"),
    [
        # One that tries the compiler; of both networks, two each, as batches of evaluation are of
        # another size; losses, figures and the making of batches.
        pytest.param("eager", STANDARDISED, "8", id="standardised"),
        pytest.param("inductor", STANDARDISED, "8", id="standardised, in C++"),
        # Partners, mixed targets, a short last batch and a probe have graphs of their own: 15 more.
        pytest.param("eager", MIXED, "23", id="rlkd, mixed"),
    ],
)
def test_a_step_that_is_recorded_is_the_same_step(
    backend: str, settings: tuple[str, ...], graphs: str, teacher_file: Path, tmp_path: Path
) -> None:
    found = in_own_process(
        "tests.support.recorded_run", str(teacher_file), str(tmp_path), backend, *settings
    )
    assert found.split() == [graphs, "0"]


@pytest.mark.usefixtures("graphs_alone")
def test_an_interrupted_compiled_run_goes_on_to_the_bit(teacher_file: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    kept = ("trainer.checkpoint_every_steps=1", "trainer.keep_checkpoints=9")
    # 24 images in batches of 16: it goes on with one of another size
    settings = (
        "temperature=constant",
        "trainer.compile=true",
        "data.limit=24",
        "trainer.epochs=1",
        *kept,
    )
    distill(tiny(teacher_file, folder.path, *settings), console=silent())
    expected, rows = weights(folder), metrics_but_time(folder.metrics)
    for file in (folder.result, folder.student, folder.metrics):
        file.unlink()
    folder.checkpoints.place(2).unlink()
    torch._dynamo.reset()  # as in a new process
    distill(tiny(teacher_file, folder.path, *settings), console=silent())
    assert metrics_but_time(folder.metrics) == rows
    assert all(torch.equal(weights(folder)[name], each) for name, each in expected.items())


def test_what_is_no_mode_is_refused(refuse: Refuse) -> None:
    told = refuse("distill", "trainer.compile=fast")
    assert_told(told, "trainer.compile=fast: give true, false or one of default, reduce-overhead")


def test_without_a_compiler_one_line_says_so_before_anything_is_written(
    teacher_file: Path, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nand much more")

    def broken(graph: torch.fx.GraphModule, _inputs: object) -> None:
        missing()

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "_BACKEND", broken)
    out = tmp_path / "out"
    told = refuse(
        "distill", *tiny(teacher_file, out, "temperature=constant", "trainer.compile=true")
    )
    assert_told(told, r"no working compiler .*no C\+\+ compiler.*trainer.compile=false.*g\+\+")
    assert not out.exists()


def test_other_errors_are_not_the_compilers() -> None:
    assert uncompiled(RuntimeError("shapes differ")) is None
    assert uncompiled(UserError("no")) is None


def test_nothing_is_compiled_unless_asked() -> None:
    class Pair(nn.Module):
        student, teacher = nn.Linear(1, 1), None

    pair = Pair()
    options = build.trainer_options(configure())
    assert compiled(pair, options) is pair  # pyright: ignore[reportArgumentType]
    assert pair.student._compiled_call_impl is None
