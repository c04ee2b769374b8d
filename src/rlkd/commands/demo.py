"""The demonstration: four ways of training one tiny student on digits, compared in one report."""

import io
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from rlkd.config.compose import ALONE, configure
from rlkd.engine import run
from rlkd.engine.finished_run import own_words
from rlkd.engine.lock import locked
from rlkd.errors import UserError
from rlkd.reporting import RunRecord, compare_arms, comparison_table, read_run, write_report
from rlkd.reporting.escaping import say
from rlkd.reporting.pages import comparison_rows
from rlkd.reporting.tables import at_a_glance

_SEEDS = "seeds="
COMMON = (
    "data=digits",
    "probe.size=128",
    "trainer.epochs=40",
    "trainer.evaluate_every=2",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
)
"""Of every run, the teacher too: all hold out the images on which the reward is measured."""
BASELINE, SUBJECT = "constant T", "RLKD"
ARMS = {
    "student alone": ALONE,
    BASELINE: ("temperature=constant",),
    "random T": ("temperature=random",),
    SUBJECT: ("temperature=rlkd", "temperature.update_interval=4", "exploration.mixed=[0,0]"),
}
"""Those with a teacher differ in the temperature alone: exploration mixes no images here. The agent
learns oftener than by default, for the runs are short."""


def demo(overrides: list[str], console: Console) -> dict[str, Any]:
    """Train a teacher and a student for each arm and seed, print the table and write the report.

    The teacher is trained once, with seed 0: it is the same for all students and seeds.

    Args:
        overrides: `seeds=3,4,5` in place of 0, 1 and 2; `output=DIR` in place of runs/demo, the
            folder of all runs, of which complete ones are not repeated; the others are added to
            every run.
        console: where to print.

    Returns:
        The folder, the report, the last line, and the rows of the table and of the runs.

    Raises:
        UserError: if the seeds are none, or for what the user can fix in a run.
    """
    seeds = _seeds([each for each in overrides if each.startswith(_SEEDS)] or ["seeds=0,1,2"])
    runs = [each for each in overrides if not each.startswith(_SEEDS)]
    if one := next((each for each in runs if each.startswith("seed=")), None):
        raise UserError(f"{one}: the demonstration takes several, seeds={one[5:]}")
    own, others = own_words(runs, ("output",))
    output = Path(own.get("output", "runs/demo"))
    silent = Console(file=io.StringIO())
    arms: dict[str, list[RunRecord]] = {arm: [] for arm in ARMS}
    how = configure([*COMMON, *others]).lock
    with locked(output, how, console), Progress(console=console, transient=True) as progress:
        total = 1 + len(ARMS) * len(seeds)
        task = progress.add_task("", total=total)

        def show(number: int, what: str) -> None:
            progress.update(task, completed=number, description=what)
            if not console.is_interactive:  # which shows no bar
                say(console, f"run {number + 1} of {total}: {what}")

        show(0, "teacher")
        teacher = ["student=convnet_small", f"output={output / 'teacher'}"]
        run.train([*COMMON, *teacher, *others], console=silent)
        checkpoint = f"teacher.checkpoint={output / 'teacher' / 'student.safetensors'}"
        student = ["teacher=convnet_small", checkpoint, "student=convnet_tiny"]
        for each, seed in enumerate(seeds):
            for number, (arm, settings) in enumerate(ARMS.items(), 1 + each * len(ARMS)):
                show(number, f"{arm}, seed {seed}")
                folder = output / f"{arm} seed {seed}".replace(" ", "_")
                place = [f"seed={seed}", f"output={folder}"]
                run.distill([*COMMON, *student, *settings, *place, *others], console=silent)
                arms[arm].append(read_run(folder))
    comparison = compare_arms(arms, BASELINE)
    title = "A tiny student on digits"
    console.print(comparison_table(comparison, title=title))
    report, command = output / "report.html", shlex.join(["rlkd", "demo", *overrides])
    write_report(report, arms, title=title, command=command, baseline=BASELINE)
    glance = at_a_glance(comparison, SUBJECT)
    for line in (glance, f"the pictures: {report}"):
        say(console, line)
    found = {"output": str(output), "report": str(report), "at_a_glance": glance}
    return found | comparison_rows(comparison)


def _seeds(given: list[str]) -> list[int]:
    values = given[-1].removeprefix(_SEEDS).split(",")
    if not all(each.isdecimal() for each in values) or len({*map(int, values)}) < len(values):
        raise UserError(f"{given[-1]}: give whole numbers, each once, such as seeds=3,4,5")
    return [int(each) for each in values]
