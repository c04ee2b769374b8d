"""Does a temperature for every region matter? Generated shapes, several ways and seeds, last epoch.

`experiment=shapes_small_tiny`: a teacher of 1.0 million parameters, students of 0.13 million. All
arms have the same images (the 16 of the agent's probe are held out of every arm), schedule and
seeds, and differ in the overrides below and nothing else. Complete runs are not repeated, so the
script resumes. The schedule was found on shapes of another seed (data.seed=7).

    python benchmarks/detection_arms.py
    python benchmarks/detection_arms.py --teacher-epochs 6 trainer.epochs=5  # under 10 minutes
"""

import argparse
import io
import json
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from rlkd.engine.run import ALONE, distill
from rlkd.reporting import (
    compare_arms,
    comparison_markdown,
    comparison_table,
    hardware,
    read_run,
    versions,
    write_report,
)

COMMON = ["experiment=shapes_small_tiny", "trainer.threads=1"]
TEACHER = [
    *ALONE,
    "student=fasterrcnn_small",
    "optimizer.lr=0.001",
    "task.detector.regions_per_image=64",
]
HELD_OUT = "probe.size=16"
OFTENER = "temperature.update_interval=2"
"""The agent learns oftener than by default, for the schedule is short."""
ARMS = {
    "student alone": [*ALONE, HELD_OUT],
    "constant T = 1": ["temperature=constant", HELD_OUT],
    "random T": ["temperature=random", HELD_OUT],
    "rlkd": ["temperature=rlkd", HELD_OUT, OFTENER],
    "constant T = 4": ["temperature=constant", "temperature.temperature=4.0", HELD_OUT],
}
BASELINE = "constant T = 1"


def run(overrides: list[str]) -> None:
    """Do a run, or nothing where it is complete."""
    distill(overrides, console=Console(file=io.StringIO()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS)[:4], choices=list(ARMS))
    parser.add_argument("--teacher-epochs", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2, help="runs side by side")
    parser.add_argument("--runs", type=Path, default=Path("runs/detection_arms"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/detection_arms.json"))
    parser.add_argument("overrides", nargs="*", help="for every arm, such as trainer.epochs=20")
    arguments = parser.parse_args()
    began = time.perf_counter()
    teacher = arguments.runs / "teacher"
    checkpoint = teacher / "student.safetensors"
    folders = {
        (arm, seed): arguments.runs / "_".join(re.findall(r"\w+", f"{arm} seed {seed}"))
        for seed in arguments.seeds
        for arm in arguments.arms
    }

    def overrides(arm: str, seed: int) -> list[str]:
        taught = [] if "teacher=none" in ARMS[arm] else [f"teacher.checkpoint={checkpoint}"]
        place = f"output={folders[arm, seed]}"
        return [*COMMON, *ARMS[arm], *taught, f"seed={seed}", place, *arguments.overrides]

    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        epochs = f"trainer.epochs={arguments.teacher_epochs}"
        taught = pool.submit(run, [*COMMON, *TEACHER, epochs, f"output={teacher}"])
        alone = [each for each in folders if "teacher=none" in ARMS[each[0]]]
        running = [pool.submit(run, overrides(*each)) for each in alone]
        taught.result()
        running += [pool.submit(run, overrides(*each)) for each in folders if each not in alone]
        for each in running:
            each.result()
    minutes = (time.perf_counter() - began) / 60
    arms = {
        arm: [read_run(folders[arm, seed]) for seed in arguments.seeds] for arm in arguments.arms
    }
    results = {arm: [record.result for record in records] for arm, records in arms.items()}
    comparison = compare_arms(arms, BASELINE)
    title = f"fasterrcnn_small -> fasterrcnn_tiny on generated shapes, {minutes:.1f} minutes in all"
    Console().print(comparison_table(comparison, title=title))
    command = " ".join(["python benchmarks/detection_arms.py", *sys.argv[1:]])
    write_report(
        arguments.runs / "report.html", arms, title=title, command=command, baseline=BASELINE
    )
    report = {
        "command": command,
        "hardware": hardware(),
        "versions": versions(),
        "seeds": arguments.seeds,
        "minutes": minutes,
        "teacher": read_run(teacher).result.test.figures(),
        "test": {arm: [each.test.figures() for each in found] for arm, found in results.items()},
        "images_per_second": {
            arm: [each.images_per_second for each in found] for arm, found in results.items()
        },
        "table": comparison_markdown(comparison),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
