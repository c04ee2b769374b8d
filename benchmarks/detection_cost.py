"""What the agent costs a detector: step time and memory relative to constant T and to none.

Generated shapes, random weights: what a step costs does not depend on what was learnt.
All variants take turns step by step, in a new order every round. Steps in which the source learns
or measures are told from plain ones, and the figure is the mean of the medians of the kinds, in
their shares in the run.

What the agent adds is timed within one training besides, by its own temperatures and by a constant
one in turns: the time in the parts of a step that know of the source, relative to the rest of the
very step; and whole steps, which are far noisier. Standard errors are of the bootstrap. `rlkd`
learns once in 256 rounds, which must be a multiple of that where it takes part; `rlkd_paper` learns
in every eighth.

Memory is the peak of a process of its own that does 260 steps, in which every agent learns; on a
GPU, what torch allocated at most.

    python benchmarks/detection_cost.py
    python benchmarks/detection_cost.py --teacher fasterrcnn_resnet50 \
        --student fasterrcnn_resnet18 --size 320 --batch 2 --rounds 24 --no-memory \
        --only "no distillation" "constant T" "constant T again" rlkd_paper
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rlkd import models
from rlkd.config.compose import configure
from rlkd.engine import build
from rlkd.reporting import hardware, versions
from rlkd.types import DetectionBatch
from steps import peak_of_process, print_peak, without_trainer
from timing import Kinds, take_turns, what_the_source_adds

VARIANTS = {
    "no distillation": ["method=alone", "teacher=none"],
    "constant T": ["temperature=constant"],
    "constant T again": ["temperature=constant"],
    "random T": ["temperature=random", "temperature.warmup_epochs=0"],
    "rlkd": ["temperature=rlkd", "temperature.warmup_epochs=0"],
    "rlkd_paper": ["temperature=rlkd_paper", "temperature.warmup_epochs=0"],
}
AGENTS = ("rlkd", "rlkd_paper")
_CYCLE = 256
"""Steps from one learning of `rlkd` to the next."""


class DetectionSteps:
    """Endless training steps of a detector; see `steps.Steps`."""

    def __init__(self, overrides: list[str]) -> None:
        plain = ["task=detection", "task.group_by_aspect=false", "exploration.epochs=0"]
        config = configure([*plain, *overrides])
        self.options = build.trainer_options(config)
        torch.manual_seed(0)
        module = build.task(config).prepare(config, self.options).module.to(self.options.device)
        self.module = module
        along = () if module.temperature is None else module.temperature.trained_parameters()
        trained = [*module.student.parameters(), *module.objective.parameters(), *along]
        without_trainer(module, build.optimizer(config)(trained))
        self.module._make_scheduler = None  # pyright: ignore[reportPrivateUsage]
        self.kinds = Kinds(module.temperature)
        self._batches = self._endless()

    def __call__(self, count: int) -> None:
        """Do some steps, loading and augmenting included."""
        for _ in range(count):
            batch = next(self._batches)
            with self.options.autocast():
                self.module.training_step(batch, 0)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _endless(self) -> Iterator[DetectionBatch]:
        epoch = 0
        while True:
            self.module.enter_epoch(epoch, start=0)
            yield from self.module.batches  # pyright: ignore[reportGeneralTypeIssues]
            epoch += 1


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        DetectionSteps(sys.argv[2:])(_CYCLE + 4)
        print_peak()
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="fasterrcnn_small")
    parser.add_argument("--student", default="fasterrcnn_tiny")
    parser.add_argument("--size", type=int, default=96, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=_CYCLE)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS))
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/detection_cost.json"))
    arguments = parser.parse_args()
    cycle = _CYCLE if "rlkd" in arguments.only else 8
    if arguments.rounds % cycle:
        parser.error(f"--rounds={arguments.rounds}: give a multiple of {cycle}")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "teacher.safetensors"
        classes = 6  # those of the shapes, and the background
        size = {"min_size": arguments.size, "max_size": 2 * arguments.size}
        models.save_weights(
            models.create_detector(arguments.teacher, num_classes=classes, **size), weights
        )
        common = [
            f"student={arguments.student}",
            f"data.size={arguments.size}",
            "data.train=256",
            "data.test=1",
            f"task.detector.min_size={arguments.size}",
            f"task.detector.max_size={2 * arguments.size}",
            f"trainer.batch_size={arguments.batch}",
        ]
        taught = [f"teacher={arguments.teacher}", f"teacher.checkpoint={weights}"]
        overrides = {
            name: [*common, *(taught if "teacher=none" not in given else []), *given]
            for name, given in VARIANTS.items()
            if name in arguments.only
        }
        memory = (
            {}
            if arguments.no_memory
            else {name: peak_of_process(__file__, given) for name, given in overrides.items()}
        )
        steps = {name: DetectionSteps(given) for name, given in overrides.items()}
        means = take_turns(steps, arguments.rounds)
        adds: dict[str, dict[str, float]] = {}
        for name in (each for each in AGENTS if each in overrides):
            training = DetectionSteps(overrides[name])
            constant = configure(["task=detection", "temperature=constant"])
            plain = build.temperature(constant, num_classes=classes)
            adds[name] = what_the_source_adds(training, training.module, plain, arguments.rounds)
    rows = {
        name: {
            "ms": 1e3 * means[name],
            "over_constant": means[name] / means["constant T"],
            "over_none": means[name] / means["no distillation"],
            "peak_mib": memory.get(name),
        }
        for name in steps
    }
    table = Table(title=f"{arguments.teacher} -> {arguments.student}, {hardware()}")
    for column in ("variant", "ms a step", "x constant T", "x no distillation", "peak, MiB"):
        table.add_column(column)
    for name, row in rows.items():
        used = row["peak_mib"]
        table.add_row(
            name,
            f"{row['ms']:.1f}",
            f"{row['over_constant']:.3f}",
            f"{row['over_none']:.3f}",
            "" if used is None else f"{used:.0f}",
        )
    Console().print(table)
    for name, row in adds.items():
        print(
            f"to {row['plain_ms']:.1f} ms {name} adds x {row['ratio']:.4f} ± "
            f"{row['standard_error']:.4f}, seen from whole steps x {row['whole_ratio']:.4f} ± "
            f"{row['whole_standard_error']:.4f}"
        )
    report = {
        "command": " ".join(["python benchmarks/detection_cost.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": versions(),
        "rounds": arguments.rounds,
        "rows": rows,
        "the_agent_adds": adds,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
