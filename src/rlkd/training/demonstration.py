"""The demonstration: four ways of training one tiny student on digits, told in one report."""

import io
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from rlkd.reporting import RunRecord, compare_arms, comparison_table, read_run, write_report
from rlkd.training import run

SEEDS = (0, 1, 2)
COMMON = (
    "data=digits",
    "trainer.epochs=40",
    "trainer.evaluate_every=2",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
)
ARMS = {
    "student alone": run.ALONE,
    "KD, constant T": ("temperature=constant",),
    "KD, random T": ("temperature=random",),
    "RLKD": ("temperature=rlkd", "temperature.update_interval=4", "probe.size=128"),
}
"""Arms differ in what they are about; the agent learns oftener, for the runs are short."""


def demo(overrides: list[str], console: Console, *, output: Path = Path("runs/demo")) -> None:
    """Train a teacher and twelve students, print the table and write the report.

    Args:
        overrides: added to every run.
        console: where to print.
        output: folder of all runs; complete ones are not repeated.
    """
    teacher = output / "teacher"
    silent = Console(file=io.StringIO())
    arms: dict[str, list[RunRecord]] = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("teacher", total=1 + len(ARMS) * len(SEEDS))
        run.train(
            [*COMMON, "student=convnet_small", f"output={teacher}", *overrides], console=silent
        )
        progress.advance(task)
        for arm, settings in ARMS.items():
            progress.update(task, description=arm)
            for seed in SEEDS:
                folder = output / f"{arm}, seed {seed}".replace(" ", "_").replace(",", "")
                run.distill(
                    [
                        *COMMON,
                        "teacher=convnet_small",
                        f"teacher.checkpoint={teacher / 'student.safetensors'}",
                        "student=convnet_tiny",
                        *settings,
                        f"seed={seed}",
                        f"output={folder}",
                        *overrides,
                    ],
                    console=silent,
                )
                arms.setdefault(arm, []).append(read_run(folder))
                progress.advance(task)
    title = "A tiny student on digits, test accuracy of the last epoch"
    console.print(comparison_table(compare_arms(arms, "KD, constant T"), title=title))
    report = output / "report.html"
    write_report(report, arms, title=title, command="rlkd demo", baseline="KD, constant T")
    console.print(f"the pictures: {report}", soft_wrap=True, markup=False)
