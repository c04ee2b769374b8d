"""What one rank does in test_ranks: runs as `rlkd distill` makes them, and what became of them.

`torchrun --nproc-per-node 2 rank_run.py FOLDER TEACHER` does every cell of `CELLS`, then `scenes`.
"""

import fcntl
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
from tests.support import cpu_sync_norm
from tests.support.detection_runs import tiny_detection
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.detection import _utils as sampling

from rlkd import distributed
from rlkd.agent import TemperatureAgent
from rlkd.config.compose import configure
from rlkd.engine import run as runs
from rlkd.engine.launch import Launch
from rlkd.engine.lock import LOCK
from rlkd.engine.module import StudentModule
from rlkd.engine.signals import Interrupted
from rlkd.engine.sync_norm import synchronised
from rlkd.errors import UserError
from rlkd.lightning_callback import TemperatureCallback
from rlkd.losses import kd
from rlkd.temperature import TemperatureSource

COMMON = (
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.batch_size=64",
    "trainer.sync_batch_norm=true",
    "trainer.epochs=3",
    "trainer.log_every_steps=2",
    "data.limit=1280",
    "scheduler=multistep",
)
LEARNING = ("temperature.warmup_epochs=0", "exploration.enabled=true", "exploration.epochs=2")
BROKEN = (
    "temperature=rlkd_paper",
    "temperature.update_interval=2",
    "trainer.max_steps=12",
    *LEARNING,
)
"""A run that is stopped after 7 steps, within an epoch."""
CELLS: dict[str, tuple[str, ...]] = {
    "constant": ("temperature=constant", "trainer.max_steps=50"),
    "rlkd": (
        "temperature=rlkd",
        "temperature.probe_interval=4",
        "temperature.update_interval=2",
        "data.limit=1408",
        "probe.size=128",
        "trainer.max_steps=50",
        *LEARNING,
        # Rounding may swap two instances of nearly one entropy, and so their partners.
        "exploration.mixed=[0,0]",
    ),
    "rlkd, looking ahead": (
        *("temperature=rlkd", "temperature.reward_source=look_ahead", "data.limit=1408"),
        *("temperature.probe_interval=4", "probe.size=128", "trainer.max_steps=12", *LEARNING),
        "exploration.mixed=[0,0]",
    ),
    "rlkd, seeing more": (
        *("temperature=rlkd", "temperature.reward_source=look_ahead", "data.limit=1408"),
        *("temperature.probe_interval=4", "probe.source=upcoming", "trainer.max_steps=12"),
        *("temperature.state=extended", "temperature.two_actions=true", *LEARNING),
        "exploration.mixed=[0,0]",
    ),
    "rlkd_paper": (
        "temperature=rlkd_paper",
        "temperature.update_interval=4",
        "trainer.max_steps=25",
        *LEARNING,
    ),
    "random": ("temperature=random", "temperature.warmup_epochs=0", "trainer.max_steps=3"),
    "trained along": ("temperature=ctkd", "trainer.max_steps=10"),
    "with a memory bank": (
        "temperature=constant",
        "method=crd",
        "method.terms.crd.loss.negatives=256",
        "trainer.max_steps=12",
    ),
    "held back": (
        *("temperature=constant", "trainer.gradient_clip=0.1", "trainer.ema=0.7"),
        *("task.label_smoothing=0.1", "task.class_weights=balanced", "student.freeze=[layers.0.*]"),
        *("data.limit=1408", "trainer.validation_size=128", "trainer.evaluate_every=1"),
        "trainer.max_steps=24",
    ),
    "stopped early": (
        *("temperature=constant", "optimizer.lr=1e-9", "trainer.epochs=9", "data.limit=384"),
        *("trainer.validation_size=128", "trainer.evaluate_every=1", "trainer.early_stopping=1"),
    ),
    "unbroken": BROKEN,
    "in two passes": (
        "temperature=rlkd_paper",
        "temperature.update_interval=2",
        "temperature.max_instances=24",
        "trainer.accumulate=2",
        "trainer.max_steps=12",
        *LEARNING,
    ),
    "detector": ("task=detection", "temperature=constant", "trainer.max_steps=8"),
    "detector, rlkd": (
        "task=detection",
        "temperature=rlkd",
        "probe.size=4",
        "temperature.probe_interval=1",
        "temperature.update_interval=2",
        "data.train=20",
        "trainer.max_steps=6",  # soon rounding swaps two regions of nearly one score
        "trainer.validation_size=4",
        *LEARNING,
    ),
    "detector, rlkd_paper, in two passes": (
        "task=detection",
        "temperature=rlkd_paper",
        "temperature.update_interval=2",
        "trainer.accumulate=2",
        "trainer.max_steps=8",
        *LEARNING,
    ),
}
"""Those of detectors sample the first regions and not any: what is drawn is each rank's own."""


def watched(overrides: list[str], *, stop_at: int | None = None) -> dict[str, Any]:
    """Do a run and return the student's weights, all temperatures and the source's fingerprint."""
    given: list[Tensor] = []
    held: list[StudentModule] = []
    stop = signal.getsignal(signal.SIGTERM)

    def note(_module: nn.Module, _input: Any, output: Any) -> None:
        given.append(output.student.detach().clone())
        if len(given) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    class Sampling:
        """Torch as torchvision's sampler of regions sees it."""

        @staticmethod
        def randperm(count: int, device: torch.device) -> Tensor:
            return torch.arange(count, device=device)

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    fit = runs.L.Trainer.fit

    def fitted(trainer: Any, module: StudentModule, *arguments: Any, **named: Any) -> Any:
        held.append(module)
        assert isinstance(module.temperature, TemperatureSource)
        module.temperature.register_forward_hook(note)
        return fit(trainer, module, *arguments, **named)

    with patch.object(runs.L.Trainer, "fit", fitted), patch.object(sampling, "torch", Sampling()):
        try:
            # A terminal: there the bar reads figures, for which ranks meet.
            terminal = runs.Console(file=io.StringIO(), force_terminal=True)
            runs.run(configure(overrides), console=terminal)
        finally:
            signal.signal(signal.SIGTERM, stop)
    (module,) = held
    assert module.temperature is not None
    return {
        "student": module.evaluated.state_dict(),
        "temperatures": given,
        "source": distributed.fingerprint(module.temperature),
        "entropy": None if module.explorer is None else module.explorer.record.entropy,
        "metrics": module.history,
    }


def overrides(teacher: Path, output: Path, *more: str) -> list[str]:
    if "task=detection" in more:
        return tiny_detection(
            detector_beside(teacher), output, "trainer.sync_batch_norm=true", *more
        )
    given = [*COMMON, f"teacher.checkpoint='{teacher}'", f"output='{output}'", *more]
    return list({each.partition("=")[0]: each for each in given}.values())


def detector_beside(teacher: Path) -> Path:
    return teacher.parents[1] / "detector.safetensors"


def refused(act: Callable[[], Any]) -> str:
    try:
        act()
    except UserError as error:
        return str(error)
    return ""


def norm_on(rows: Tensor) -> dict[str, Tensor]:
    """Call a synchronised batch norm on this rank's part of rows, forwards and backwards."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(rows.shape[1]).double()
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.uniform_()
    norm = synchronised(norm, torch.device("cpu"))
    own = distributed.this_rank().share_of(rows).clone().requires_grad_()
    output = norm(own)
    # Ranks' losses are averaged, as DistributedDataParallel does with their gradients.
    (output.sin().mean() / distributed.this_rank().world_size).backward()
    assert own.grad is not None
    return {
        "output": distributed.gather_rows(output.detach()),
        "input gradient": distributed.gather_rows(own.grad),
        "weight gradient": distributed.sum_over_ranks(norm.get_parameter("weight").grad),  # pyright: ignore[reportArgumentType]
        "running_mean": norm.get_buffer("running_mean"),
        "running_var": norm.get_buffer("running_var"),
    }


def rows_for_norm() -> Tensor:
    return torch.randn(8, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Own(L.LightningModule):
    """Somebody's module, with automatic optimisation and an agent."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Linear(4, 3)
        self.teacher = nn.Linear(4, 3).requires_grad_(False)
        self.temperature = TemperatureAgent(
            reward_source="next_batch", metric="loss", update_interval=2, hidden=8
        )

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        image, target = batch
        student, teacher = self.student(image), self.teacher(image)
        temperature = self.temperature(student, teacher, target)
        return kd(student, teacher, temperature)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.student.parameters(), lr=0.1)


def own_module() -> dict[str, Any]:
    """Train somebody's module, each rank on rows of its own."""
    module, rank = Own(), distributed.this_rank().rank
    rows = torch.randn(96, 4, generator=torch.Generator().manual_seed(rank))
    batches = DataLoader(TensorDataset(rows, rows.argmax(1) % 3), batch_size=8)
    launch = Launch.found()
    L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=launch.per_node,
        strategy=launch.strategy(),
        callbacks=[TemperatureCallback(module.temperature)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(module, batches)
    return {
        "updates": module.temperature.updates,
        "agent": distributed.fingerprint(module.temperature),
        "student": distributed.fingerprint(module.student),
    }


def scenes(folder: Path, teacher: Path) -> dict[str, Any]:
    """What only several ranks can show."""
    rank = distributed.this_rank().rank

    def stopped() -> str:
        try:
            watched(overrides(teacher, folder / "broken", *BROKEN), stop_at=7 if rank else None)
        except Interrupted as error:
            return str(error)
        return ""

    def went_on() -> dict[str, Any]:
        """Go on with a copy, so that the other is there for one process to go on with."""
        if rank == 0:
            shutil.copytree(folder / "broken", folder / "copy")
            config = folder / "copy" / "config.yaml"
            config.write_text(config.read_text().replace("/broken", "/copy"))
        distributed.gather_objects("copied")
        return watched(overrides(teacher, folder / "copy", *BROKEN))

    def refusal(*more: str) -> str:
        return refused(lambda: watched(overrides(teacher, folder / "never", *more)))

    def in_use() -> str:
        """Be refused a folder that rank 0 finds locked, as by another process."""
        held = folder / "held"
        held.mkdir(exist_ok=True)
        with (held / LOCK).open("w") as lock:
            if rank == 0:
                fcntl.flock(lock, fcntl.LOCK_EX)
            distributed.gather_objects("locked")
            return refused(lambda: watched(overrides(teacher, held)))

    return {
        "in use": in_use(),
        "stopped": stopped(),
        "went on": went_on(),
        "different data": refusal(f"data.limit={1280 - rank}"),
        "odd batch": refusal("trainer.batch_size=63"),
        "norm": norm_on(rows_for_norm()),
        "somebody's module": own_module(),
    }


def main(folder: Path, teacher: Path) -> None:
    torch.set_num_threads(1)
    with cpu_sync_norm.on_cpu():
        done = {
            name: watched(overrides(teacher, folder / name.replace(" ", "_"), *more))
            for name, more in CELLS.items()
        }
        done["scenes"] = scenes(folder, teacher)
    torch.save(done, folder / f"rank{distributed.this_rank().rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
