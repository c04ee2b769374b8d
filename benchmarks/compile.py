"""What `trainer.compile` brings: the time of a training step compiled and not, and of compiling.

R56 -> R20, batch 64, RLKD; the same images, precision and process. The variants take turns step by
step, in a new order every round, so that what else the machine does falls on all of them alike.
`plain again` is a second `plain`: its distance from 1 is the error of the measurement.

    python benchmarks/compile.py
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rlkd.config.compose import configure
from rlkd.engine import build
from rlkd.engine.compile import compiled
from rlkd.reporting import hardware, versions
from steps import Steps
from timing import take_turns

VARIANTS: dict[str, bool | str] = {"plain": False, "plain again": False, "compiled": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=64)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--mode", default="true", help="of trainer.compile")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compile.json"))
    arguments = parser.parse_args()
    settings = [
        f"teacher={arguments.teacher}",
        f"student={arguments.student}",
        "temperature=rlkd",
        "temperature.warmup_epochs=0",
        f"trainer.precision={arguments.precision}",
        f"trainer.channels_last={str(arguments.channels_last).lower()}",
    ]
    steps: dict[str, Steps] = {}
    first: dict[str, float] = {}
    for name, asked in VARIANTS.items():
        steps[name] = Steps(settings)
        chosen = arguments.mode if asked else "false"
        options = build.trainer_options(configure([f"trainer.compile={chosen}"]))
        compiled(steps[name].distiller, options)
        began = time.perf_counter()
        steps[name](40)  # a probe among them, which is scored by a graph of its own
        first[name] = time.perf_counter() - began
    seconds = take_turns(steps, arguments.rounds)
    table = Table(title=f"{arguments.teacher} -> {arguments.student}, {hardware()}")
    for column in ("networks", "ms a step", "x plain", "first 40 steps, s"):
        table.add_column(column)
    for name, value in seconds.items():
        ratio = value / seconds["plain"]
        table.add_row(name, f"{1e3 * value:.1f}", f"{ratio:.3f}", f"{first[name]:.1f}")
    Console().print(table)
    report = {
        "command": " ".join(["python benchmarks/compile.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "rounds": arguments.rounds,
        "seconds_a_step": seconds,
        "over_plain": {name: each / seconds["plain"] for name, each in seconds.items()},
        "seconds_of_the_first_40_steps": first,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
