"""How a training step and the agent's share of it grow: with the batch, the classes and the data.

R56 -> R20 on images of 32 x 32. Of each setting, steps at constant temperature and steps of `rlkd`
take turns, in a new order every round. What the agent does between them, a measurement on the probe
and a learning from full trajectories, is timed by itself and shared out over the steps that it is
for. The share is what all of that adds to a step at constant temperature.

The entropy index is timed and weighed by itself, up to ten million instances.

    python benchmarks/scale.py
"""

import argparse
import json
import resource
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
from rlkd.exploration import Bands, Explorer
from rlkd.reporting import hardware, versions
from rlkd.training.measure import scored_logits
from steps import Steps, take_turns

BATCHES, CLASSES, IMAGES = (16, 64, 256), (10, 100, 1_000, 21_000), (4_096, 50_000, 1_300_000)
SETTINGS: list[dict[str, int]] = [
    *({"batch_size": each, "classes": 100, "images": 4_096} for each in BATCHES),
    *({"batch_size": 64, "classes": each, "images": 4_096} for each in CLASSES if each != 100),
    *({"batch_size": 64, "classes": 100, "images": each} for each in IMAGES[1:]),
]
INSTANCES = (100_000, 1_000_000, 10_000_000)
NEVER = 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=48)
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
        "constant": Steps([*common, "temperature=constant"], images=images, classes=classes),
        "constant again": Steps([*common, "temperature=constant"], images=images, classes=classes),
        "rlkd": Steps(
            [*every_step, f"temperature.probe_interval={NEVER}"], images=images, classes=classes
        ),
    }
    seconds = take_turns(steps, rounds)
    full = Steps(every_step, images=images, classes=classes)
    agent, probe = full.distiller.temperature, full.distiller.probe
    assert isinstance(agent, TemperatureAgent)
    assert probe is not None
    interval = agent.reward.updates_per_window
    student = full.distiller.student

    def probing() -> None:
        agent.performance(scored_logits(student, probe.image), probe.target)

    per_probe = typical_seconds(probing)
    per_learning = learning_seconds(agent, batch_size, interval)
    added = seconds["rlkd"] - seconds["constant"]
    agent_step = added + per_probe / interval + per_learning / (interval * agent.update_interval)
    return {
        "batch_size": batch_size,
        "classes": classes,
        "images": images,
        "constant_step": seconds["constant"],
        "constant_again_step": seconds["constant again"],
        "acting": added,
        "probe": per_probe,
        "steps_a_probe": interval,
        "learning": per_learning,
        "steps_a_learning": interval * agent.update_interval,
        "agent_step": agent_step,
        "share": agent_step / seconds["constant"],
    }


def learning_seconds(agent: TemperatureAgent, batch_size: int, interval: int) -> float:
    """Time one learning from full trajectories of random states."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, batch_size, 10, generator=generator)
    target = torch.randint(0, 10, (batch_size,), generator=generator)

    def fill(windows: int) -> None:
        for _ in range(windows):
            for _ in range(interval):
                agent(logits[0], logits[1], target)
            agent.observe(torch.rand((), generator=generator))

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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    explorer = Explorer(
        instances=instances, num_classes=1_000, first_epoch=1, epochs=1, bands=Bands()
    )
    explorer.record.entropy.uniform_(0, 7)
    held = sum(each.numel() * each.element_size() for each in explorer.buffers())
    began = time.perf_counter()
    explorer.start_epoch(1)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "instances": instances,
        "held_mb_per_million": held / instances,
        "peak_mb_per_million_while_ranking": peak * 1024 / instances,
        "ranking_seconds": seconds,
    }


def in_a_process(instances: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--index", str(instances)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
