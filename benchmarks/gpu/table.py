"""Train the next unfinished cells of a table until the time is up; a later call goes on.

Each cell is a run folder, which its last checkpoint is taken up from. When the time is up the run
is stopped by SIGTERM, upon which it saves where it stands.

    python benchmarks/gpu/table.py --plan benchmarks/gpu/table.yaml --out runs/gpu --seconds 600
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import Template
from time import monotonic
from typing import Any

import yaml

SAVING = 20.0
"""Seconds that a run is given to save where it stands."""
STARTING = 15.0
"""Seconds under which no further cell is begun."""
COLUMNS = ("cell", "state", "epochs", "top1", "images_per_second", "hardware")


@dataclass(frozen=True)
class Cell:
    """One run."""

    name: str
    verb: str
    overrides: tuple[str, ...]
    folder: Path

    @property
    def result(self) -> dict[str, Any] | None:
        """What it came to; None while it is unfinished."""
        file = self.folder / "result.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @property
    def epochs(self) -> int:
        """How many epochs it has done."""
        file = self.folder / "metrics.csv"
        return (
            max(len(file.read_text(encoding="utf-8").splitlines()) - 1, 0) if file.is_file() else 0
        )


def cells(plan: dict[str, Any], out: Path, given: dict[str, str]) -> list[Cell]:
    """Return the cells of a plan, in its order.

    Raises:
        KeyError: naming what the plan wants to be given and is not.
    """
    made: list[Cell] = []
    taught = out / "table" / "teacher"
    if not given.get("TEACHER"):
        given = given | {"TEACHER": str(taught / "student.safetensors")}
        made.append(Cell("teacher", "train", (*plan["common"], *plan["teacher"]), taught))
    for seed, method, temperature in product(plan["seed"], plan["method"], plan["temperature"]):
        name = f"{method}-{temperature}-{seed}"
        own = (f"method={method}", f"temperature={temperature}", f"seed={seed}")
        overrides = (*plan["common"], *plan["student"], *own)
        made.append(Cell(name, "distill", overrides, out / "table" / name))
    values = {key: value for key, value in given.items() if value}
    return [
        Cell(
            each.name,
            each.verb,
            tuple(Template(override).substitute(values) for override in each.overrides),
            each.folder,
        )
        for each in made
    ]


def train(cell: Cell, until: float) -> int:
    """Train a cell until it is done or the time is up; return how the run ended."""
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "rlkd", cell.verb, *cell.overrides, f"output={cell.folder}"]
    with cell.folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            return run.wait(timeout=max(until - monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGTERM)
        try:
            return run.wait(timeout=SAVING)
        except subprocess.TimeoutExpired:
            run.kill()  # the checkpoint before stands
            return run.wait()


def write_table(made: list[Cell], states: dict[str, str], file: Path) -> None:
    """Write where every cell stands."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS)
        writer.writeheader()
        for cell in made:
            result = cell.result
            row: dict[str, Any] = {"cell": cell.name, "epochs": cell.epochs}
            if result is None:
                row["state"] = states.get(cell.name, "begun" if cell.folder.is_dir() else "waits")
            else:
                row |= {"state": "done", "top1": result["test"]["top1"]}
                row |= {name: result[name] for name in ("images_per_second", "hardware")}
            writer.writerow(row)


def main() -> None:
    began = monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="for all of it")
    arguments = parser.parse_args()
    plan = yaml.safe_load(arguments.plan.read_text(encoding="utf-8"))
    try:
        made = cells(
            plan, arguments.out, {name: os.environ.get(name, "") for name in ("DATA", "TEACHER")}
        )
    except KeyError as error:
        print(f"table: skipped, for {error} is not given")
        return
    until = began + arguments.seconds - SAVING
    states: dict[str, str] = {}
    for cell in made:
        if cell.result is not None:
            continue
        if until - monotonic() < STARTING:
            break
        code = train(cell, until)
        # One that was not listening yet dies of the signal itself; one that cannot save is killed.
        stopped = code in (128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)
        if cell.result is None and not stopped:
            states[cell.name] = f"failed, exit {code}"
        print(f"table: {cell.name}: exit {code}, {cell.epochs} epochs, see {cell.folder}.log")
        write_table(made, states, arguments.out / "table.csv")
        if stopped or (cell.name == "teacher" and cell.result is None):
            break
    write_table(made, states, arguments.out / "table.csv")
    done = sum(each.result is not None for each in made)
    print(f"table: {done} of {len(made)} cells done, see {arguments.out / 'table.csv'}")
    sys.exit(1 if states else 0)


if __name__ == "__main__":
    main()
