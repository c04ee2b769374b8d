"""What the layout of images is worth to a step, and folding to the teacher's pass.

Steps of R56 -> each student in both layouts take turns, and so do passes of one teacher whose batch
norms alone are folded, the same with ReLUs and additions folded too, and compiled and frozen.

    python benchmarks/settings.py
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch._inductor import config as inductor
from torch.fx.experimental import optimization

from rlkd import models
from rlkd.models.folding import folded
from rlkd.reporting import hardware, versions
from steps import Steps

STUDENTS = ("resnet20", "resnet8", "MobileNetV2", "ShuffleV1", "vgg8", "wrn_16_2", "convnet_tiny")
JOINED = (32, 64, 128, 256)


def medians(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Let variants take turns; return the median seconds of each, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}


def layouts(rounds: int) -> dict[str, float]:
    """Return, by student, the time of a step channels last over that of one channels first."""
    found: dict[str, float] = {}
    for student in STUDENTS:
        common = [f"student={student}", "temperature=constant"]
        steps = {
            last: Steps([*common, f"trainer.channels_last={last}"]) for last in ("false", "true")
        }
        taken = medians({name: lambda one=one: one(2) for name, one in steps.items()}, rounds)
        found[student] = taken["true"] / taken["false"]
    return found


@torch.no_grad()
def teachers(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the milliseconds an image of teachers at batch 64, and of one at several sizes."""
    network, last = models.create("resnet56", num_classes=100).eval(), torch.channels_last
    apart = optimization.fuse(copy.deepcopy(network)).to(memory_format=last)
    joined = folded(copy.deepcopy(network)).to(memory_format=last)
    image = {size: torch.randn(size, 3, 32, 32).to(memory_format=last) for size in JOINED}
    sizes = medians({str(n): lambda n=n: joined(image[n]) for n in JOINED}, rounds)
    with inductor.patch(freezing=True):
        frozen = torch.compile(apart, dynamic=False)
        frozen(image[64])
        variants = {"batch norms folded": apart, "ReLUs and additions too": joined}
        variants["batch norms folded, compiled and frozen"] = frozen
        kinds = medians({name: lambda f=f: f(image[64]) for name, f in variants.items()}, rounds)
    return (
        {name: 1e3 * each / 64 for name, each in kinds.items()},
        {size: 1e3 * each / int(size) for size, each in sizes.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/settings.json"))
    arguments = parser.parse_args()
    kinds, sizes = teachers(arguments.rounds)
    report = {
        "command": " ".join(["python benchmarks/settings.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "teacher_ms_an_image": kinds,
        "teacher_ms_an_image_by_batch": sizes,
        "channels_last_over_first": layouts(arguments.rounds),
    }
    Console().print_json(data=report)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
