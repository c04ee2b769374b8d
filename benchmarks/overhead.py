"""What the agent costs: the time of a training step with RLKD over one at constant temperature.

R56 -> R20, batch 64, the same networks, images, precision and process. All variants take turns, a
group of steps each, in a new order every round; the ratio is between medians over rounds, warm-up
rounds left out. A group is a whole number of the agent's learning intervals and probes (128 steps
have 8 probes and 1 learning of `rlkd`, and 16 learnings of `rlkd_paper`).

    python benchmarks/overhead.py
"""

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rlkd.reporting import hardware, versions
from steps import Steps

NO_WARMUP = "temperature.warmup_epochs=0"
VARIANTS = {
    "constant": ["temperature=constant"],
    "random": ["temperature=random", NO_WARMUP],
    "rlkd_paper": ["temperature=rlkd_paper", NO_WARMUP],
    "rlkd": ["temperature=rlkd", NO_WARMUP],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup-rounds", type=int, default=1)
    parser.add_argument("--group", type=int, default=128, help="steps of one turn")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead.json"))
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    common = [
        f"student={arguments.student}",
        f"trainer.precision={arguments.precision}",
        f"trainer.channels_last={str(arguments.channels_last).lower()}",
    ]
    steps = {name: Steps([*common, *extra]) for name, extra in VARIANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    for turn in range(arguments.warmup_rounds + arguments.rounds):
        for name in order.sample(list(steps), len(steps)):
            began = time.perf_counter()
            steps[name](arguments.group)
            if turn >= arguments.warmup_rounds:
                seconds[name].append((time.perf_counter() - began) / arguments.group)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: value / medians["constant"] for name, value in medians.items()}
    table = Table(title=f"R56 -> {arguments.student}, {arguments.precision}, {hardware()}")
    for column in ("temperature", "ms a step (median)", "min - max", "x constant"):
        table.add_column(column)
    for name, values in seconds.items():
        table.add_row(
            name,
            f"{1e3 * medians[name]:.1f}",
            f"{1e3 * min(values):.1f} - {1e3 * max(values):.1f}",
            f"{ratios[name]:.3f}",
        )
    Console().print(table)
    report = {
        "command": "python benchmarks/overhead.py " + " ".join(sys.argv[1:]),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "steps_of_a_turn": arguments.group,
        "seconds_a_step": seconds,
        "median_over_constant": ratios,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
