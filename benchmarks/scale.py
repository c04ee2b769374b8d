"""How a training step and the agent's share of it grow: with the batch, the classes and the data.

R56 -> R20 on images of 32 x 32. What the agent adds is timed by itself, part by part, as the noise
of a whole step is larger: choosing the temperatures of a batch and recording its entropies, in each
step; a measurement on the probe and a learning from full trajectories, shared out over the steps
that they are for. The share is their sum over a step at constant temperature.

The entropy index is timed and weighed by itself, up to ten million instances.

    python benchmarks/scale.py
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from rlkd.agent import TemperatureAgent
from rlkd.engine.scoring import scored_logits
from rlkd.exploration import Bands, Explored, Explorer
from rlkd.reporting import hardware, versions
from steps import Steps
from timing import take_turns

BATCHES, CLASSES, IMAGES = (16, 64, 256), (10, 100, 1_000, 21_000), (4_096, 50_000, 1_300_000)
SETTINGS: list[dict[str, int]] = [
    *({"batch_size": each, "classes": 100, "images": 4_096} for each in BATCHES),
    *({"batch_size": 64, "classes": each, "images": 4_096} for each in CLASSES if each != 100),
    *({"batch_size": 64, "classes": 100, "images": each} for each in IMAGES[1:]),
]
INSTANCES = (100_000, 1_000_000, 10_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--index", type=int, help="weigh an entropy index of that many instances")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.json"))
    arguments = parser.parse_args()
    if arguments.index:
        print(json.dumps(weigh_index(arguments.index)))
        return
    rows = [measure(**setting, rounds=arguments.rounds) for setting in SETTINGS]
    table = Table(title=f"R56 -> R20, {hardware()}")
    for column in ("batch", "classes", "images", "constant, ms", "agent, ms", "share"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["batch_size"]),
            str(row["classes"]),
            str(row["images"]),
            f"{1e3 * row['constant_step']:.1f}",
            f"{1e3 * row['agent_step']:.2f}",
            f"{100 * row['share']:.1f} %",
        )
    Console().print(table)
    index = [in_a_process(instances) for instances in INSTANCES]
    report = {
        "command": " ".join(["python benchmarks/scale.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seconds": rows,
        "entropy_index": index,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(batch_size: int, classes: int, images: int, *, rounds: int) -> dict[str, Any]:
    """Time the steps of one setting, and what the agent does between them."""
    common = [f"trainer.batch_size={batch_size}"]
    every_step = [*common, "temperature=rlkd", "temperature.warmup_epochs=0"]
    steps = {
        name: Steps([*common, "temperature=constant"], images=images, classes=classes)
        for name in ("constant", "constant again")
    }
    seconds = take_turns(steps, rounds)
    full = Steps(every_step, images=images, classes=classes)
    agent, probe = full.distiller.temperature, full.distiller.forward_pass.probe
    assert isinstance(agent, TemperatureAgent)
    assert probe is not None
    interval = agent.reward.updates_per_window
    student = full.distiller.student

    def probing() -> None:
        agent.performance(scored_logits(student, probe.image), probe.target)

    explorer, batch = full.distiller.explorer, next(iter(full.distiller.loader))
    assert explorer is not None
    logits = torch.randn(2, batch_size, classes)

    def acting() -> None:
        agent(logits[0], logits[1], batch.target)
        explorer.observe(Explored(batch, None, None), logits[0])

    per_batch = typical_seconds(acting, times=4 * interval)
    per_probe = typical_seconds(probing)
    per_learning = learning_seconds(agent, batch_size, interval)
    steps_a_learning = interval * agent.update_interval
    agent_step = per_batch + per_probe / interval + per_learning / steps_a_learning
    return {
        "batch_size": batch_size,
        "classes": classes,
        "images": images,
        "constant_step": seconds["constant"],
        "constant_again_step": seconds["constant again"],
        "acting": per_batch,
        "probe": per_probe,
        "steps_a_probe": interval,
        "learning": per_learning,
        "steps_a_learning": steps_a_learning,
        "agent_step": agent_step,
        "share": agent_step / seconds["constant"],
    }


def learning_seconds(agent: TemperatureAgent, batch_size: int, interval: int) -> float:
    """Time one learning from full trajectories of random states."""
    agent.observe(torch.zeros(()))  # what was acted before has no measurement before it
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, batch_size, 10, generator=generator)
    target = torch.randint(0, 10, (batch_size,), generator=generator)

    def fill(windows: int) -> None:
        for _ in range(windows):
            for _ in range(interval):
                agent(logits[0], logits[1], target)
            agent.observe(torch.rand((), generator=generator))

    seconds: list[float] = []
    for _ in range(3):
        fill(agent.update_interval - 1)
        for _ in range(interval):
            agent(logits[0], logits[1], target)
        updates, began = agent.updates, time.perf_counter()
        agent.observe(torch.rand((), generator=generator))
        seconds.append(time.perf_counter() - began)
        assert agent.updates == updates + 1
    return statistics.median(seconds)


def typical_seconds(act: Callable[[], object], *, times: int = 7) -> float:
    act()
    seconds: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def weigh_index(instances: int) -> dict[str, Any]:
    """Time and weigh the record of all entropies, and its ranking at the start of an epoch."""
    before = peak_mb(reset=True)
    explorer = Explorer(
        instances=instances, num_classes=1_000, first_epoch=1, epochs=1, bands=Bands()
    )
    explorer.record.entropy.uniform_(0, 7)
    held = sum(each.numel() * each.element_size() for each in explorer.buffers())
    began = time.perf_counter()
    explorer.start_epoch(1)
    seconds = time.perf_counter() - began
    return {
        "instances": instances,
        "held_mb_per_million": held / instances,
        "peak_mb_per_million_while_ranking": (peak_mb() - before) * 1e6 / instances,
        "ranking_seconds": seconds,
    }


def peak_mb(*, reset: bool = False) -> float:
    """Return the most memory that this process has had since the last reset, in 10^6 bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(each.split()[1]) for each in status if each.startswith("VmHWM")) * 1024 / 1e6


def in_a_process(instances: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--index", str(instances)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
