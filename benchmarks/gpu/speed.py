"""Images per second of training steps on this device, against the conventional recipe.

R56 -> R20, batch 64, random images; see benchmarks/throughput.py, whose recipes take turns here. A
recipe that fails here is left out, and its error is written down.

    python benchmarks/gpu/speed.py
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from rlkd.config.compose import configure
from rlkd.engine import build
from rlkd.engine.compile import compiled
from rlkd.reporting import hardware, versions
from steps import Steps
from throughput import Conventional, in_turns, shown

Recipe = Callable[[int], None]
CONSTANT = ["temperature=constant"]
AGENT = ["temperature=rlkd", "temperature.warmup_epochs=0"]
FAST = ["trainer.precision=bf16-mixed", "trainer.channels_last=true"]


def with_graphs(overrides: list[str]) -> Steps:
    """Make steps whose networks, losses and figures are recorded as CUDA graphs."""
    steps = Steps(overrides)
    compiled(steps.distiller, build.trainer_options(configure(["trainer.compile=reduce-overhead"])))
    return steps


def recipes(device: torch.device, images: int) -> dict[str, Callable[[], Recipe]]:
    """Return makers by name; all others are compared with the first."""
    made: dict[str, Callable[[], Recipe]] = {
        "conventional, fp32": lambda: Conventional(device, images),
        "constant T, fp32": lambda: Steps(CONSTANT, images=images),
        "the agent, fp32": lambda: Steps(AGENT, images=images),
        "constant T, bf16": lambda: Steps([*CONSTANT, *FAST], images=images),
        "the agent, bf16": lambda: Steps([*AGENT, *FAST], images=images),
    }
    if device.type == "cuda":
        made |= {
            "constant T, bf16, compiled": lambda: with_graphs([*CONSTANT, *FAST]),
            "the agent, bf16, compiled": lambda: with_graphs([*AGENT, *FAST]),
        }
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--group", type=int, default=64, help="steps of one turn")
    parser.add_argument("--images", type=int, default=4096, help="size of the training set")
    parser.add_argument("--recipes", type=int, help="how many of them; all, if not given")
    parser.add_argument("--seconds", type=float, default=100, help="in which recipes are made")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ready: dict[str, Recipe] = {}
    failed: dict[str, str] = {}
    for name, make in list(recipes(device, arguments.images).items())[: arguments.recipes]:
        if time.monotonic() > until:
            failed[name] = "left out: no time was left to make it"
            continue
        try:
            recipe = make()
            recipe(arguments.group)  # compiles, and has its kernels chosen
            ready[name] = recipe
        except Exception as error:  # whatever this card, driver or torch does not get through
            failed[name] = f"{type(error).__name__}: {error}"[:2000]
            print(f"{name}: {failed[name]}")
    rates = in_turns(ready, arguments.rounds, warmup=1, group=arguments.group)
    Console().print(shown(rates))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    base = medians[next(iter(medians))]
    report = {
        "command": " ".join(["python benchmarks/gpu/speed.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "relative_to": next(iter(medians)),
        "images_per_second": rates,
        "median_over_the_first": {name: value / base for name, value in medians.items()},
        "failed": failed,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
