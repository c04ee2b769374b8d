"""What the agent costs: the time of a training step with RLKD over one at constant temperature.

R56 -> R20, batch 64, the same networks, images, precision and process. The variants take turns step
by step, in a new order every round, so that what else the machine does falls on all of them alike.
A block is 384 rounds: whatever the offset, it holds 8 probes and 1 learning of `rlkd` and 48
learnings of `rlkd_paper`. The ratio of a block is between sums over its steps; the figure is the
median over blocks. `constant again` is a second `constant`: its distance from 1 is the error of the
measurement.

    python benchmarks/overhead.py
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rlkd.reporting import hardware, versions
from steps import Steps

NO_WARMUP = "temperature.warmup_epochs=0"
VARIANTS = {
    "constant": ["temperature=constant"],
    "constant again": ["temperature=constant"],
    "random": ["temperature=random", NO_WARMUP],
    "rlkd_paper": ["temperature=rlkd_paper", NO_WARMUP],
    "rlkd": ["temperature=rlkd", NO_WARMUP],
    "rlkd, every 32 steps": ["temperature=rlkd", "temperature.probe_interval=32", NO_WARMUP],
    "rlkd, looking ahead": ["temperature=rlkd", "temperature.reward_source=look_ahead", NO_WARMUP],
}
BLOCK, WARMUP = 384, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--warm", action="store_true", help="the teacher's logits are read")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--block", type=int, default=BLOCK, help="rounds of a block")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead.json"))
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    common = [
        f"student={arguments.student}",
        f"trainer.precision={arguments.precision}",
        f"trainer.channels_last={str(arguments.channels_last).lower()}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) if arguments.warm else None
        steps = {
            name: Steps([*common, *extra], store=store and store / name)
            for name, extra in VARIANTS.items()
            if name in arguments.variants
        }
        measure(steps, arguments)


def measure(steps: Mapping[str, Steps], arguments: argparse.Namespace) -> None:
    for one in steps.values():
        one(WARMUP)
    seconds = {name: [0.0] * arguments.blocks for name in steps}
    order = random.Random(0)
    for turn in range(arguments.blocks * arguments.block):
        for name in order.sample(list(steps), len(steps)):
            began = time.perf_counter()
            steps[name](1)
            seconds[name][turn // arguments.block] += (
                time.perf_counter() - began
            ) / arguments.block
    ratios = {
        name: [mine / base for mine, base in zip(values, seconds["constant"], strict=True)]
        for name, values in seconds.items()
    }
    teacher = "teacher's logits read" if arguments.warm else "teacher online"
    title = f"R56 -> {arguments.student}, {teacher}, {arguments.precision}, {hardware()}"
    table = Table(title=title)
    for column in ("temperature", "ms a step (median)", "x constant (median)", "min - max"):
        table.add_column(column)
    for name, values in seconds.items():
        table.add_row(
            name,
            f"{1e3 * statistics.median(values):.1f}",
            f"{statistics.median(ratios[name]):.3f}",
            f"{min(ratios[name]):.3f} - {max(ratios[name]):.3f}",
        )
    Console().print(table)
    report = {
        "command": " ".join(["python benchmarks/overhead.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "rounds_a_block": arguments.block,
        "seconds_a_step": seconds,
        "over_constant": ratios,
        "median_over_constant": {name: statistics.median(each) for name, each in ratios.items()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
