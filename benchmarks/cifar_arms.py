"""Does the temperature matter? A student on real CIFAR-100, several ways and seeds, last epoch.

R56 -> R8 on a fixed, class-balanced part of the training images of CIFAR-100; a short schedule that
warms up (1 epoch), explores (1 epoch) and anneals (x 0.1 at 6, 8 and 9 of 10 epochs). All arms have
the same images (256 are held out of every arm, for the agent's probe), schedule and seeds, and
differ in the overrides below, which may mix images, and nothing else. Complete runs are not
repeated, so the script resumes, and parts may run side by side with --arms.

    python benchmarks/cifar_arms.py --root DIR --teacher resnet56_cifar100.pth
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from rlkd.engine.run import ALONE, distill
from rlkd.reporting import (
    RunRecord,
    compare_arms,
    comparison_markdown,
    comparison_table,
    hardware,
    read_run,
    versions,
    write_report,
)

COMMON = [
    "data=cifar100",
    "teacher=resnet56",
    "student=resnet8",
    "trainer.epochs=10",
    "trainer.precision=bf16-mixed",
    "trainer.evaluate_every=5",
    "probe.size=256",
]
OFTENER = "temperature.update_interval=2"
"""The agent learns oftener than by default, for the schedule is short."""
ARMS = {
    "student alone": list(ALONE),
    "constant T = 4": ["temperature=constant"],
    "constant T = 3": ["temperature=constant", "temperature.temperature=3"],
    "random T": ["temperature=random"],
    "rlkd_paper": ["temperature=rlkd_paper", OFTENER],
    "rlkd": ["temperature=rlkd", OFTENER],
    "rlkd, no calibration": ["temperature=rlkd", OFTENER, "temperature.calibration=none"],
    "rlkd, no exploration": ["temperature=rlkd", OFTENER, "exploration.enabled=false"],
    "constant T = 4, mixed as rlkd": ["temperature=constant", "exploration.enabled=true"],
}
BASELINE = "constant T = 4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="folder of CIFAR-100")
    parser.add_argument("--teacher", required=True, help="checkpoint of a ResNet-56")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS)[:6], choices=list(ARMS))
    parser.add_argument("--images", type=int, default=10_240, help="training images, balanced")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar_arms"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cifar_arms.json"))
    parser.add_argument("--report-only", action="store_true", help="of the runs that are there")
    parser.add_argument("overrides", nargs="*", help="for every arm, such as trainer.epochs=20")
    arguments = parser.parse_args()
    console = Console()
    for seed in arguments.seeds:
        for arm in [] if arguments.report_only else arguments.arms:
            console.print(f"[bold]{arm}, seed {seed}[/bold]")
            distill(
                [
                    *COMMON,
                    f"data.root={arguments.root}",
                    f"data.limit={arguments.images}",
                    f"teacher.checkpoint={arguments.teacher}",
                    *ARMS[arm],
                    f"seed={seed}",
                    f"trainer.threads={arguments.threads}",
                    f"output={folder(arguments.runs, arm, seed)}",
                    *arguments.overrides,
                ],
                console=console,
            )
    report(arguments, console)


def folder(runs: Path, arm: str, seed: int) -> Path:
    """Return the run folder of an arm and a seed."""
    name = "".join(each if each.isalnum() else "_" for each in arm)
    return runs / f"{name}_seed{seed}"


def report(arguments: argparse.Namespace, console: Console) -> None:
    """Tell of all complete runs, of this call or earlier ones."""
    arms: dict[str, list[RunRecord]] = {}
    for arm in ARMS:
        for seed in arguments.seeds:
            place = folder(arguments.runs, arm, seed)
            if (place / "result.json").is_file():
                arms.setdefault(arm, []).append(read_run(place))
    baseline = BASELINE if BASELINE in arms else None
    comparison = compare_arms(arms, baseline)
    title = f"R56 -> R8, {arguments.images} images of CIFAR-100, test accuracy of the last epoch"
    console.print(comparison_table(comparison, title=title))
    write_report(
        arguments.runs / "report.html",
        arms,
        title=title,
        command="python benchmarks/cifar_arms.py",
        baseline=baseline,
    )
    written = {
        "command": "python benchmarks/cifar_arms.py " + " ".join(sys.argv[1:]),
        "hardware": hardware(),
        "versions": versions(),
        "seeds": arguments.seeds,
        "images": arguments.images,
        "overrides": {"common": COMMON, **{arm: ARMS[arm] for arm in arms}},
        "table": comparison_markdown(comparison).splitlines(),
        "results": {
            arm: [json.loads((each.folder / "result.json").read_text()) for each in records]
            for arm, records in arms.items()
        },
        "metrics": {arm: [each.metrics for each in records] for arm, records in arms.items()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
