"""What each loss and each temperature source costs: step time and memory relative to constant KD.

R56 -> R20, batch 64, random images of CIFAR's size. All variants take turns step by step, in a new
order every round, so that what else the machine does falls on all alike. Steps in which the agent
learns or measures are told from plain ones; the figure is the mean of the medians of the kinds, in
their shares, over that of constant KD, and `kd again` tells the error of it. Each method is also
timed with the agent (`rlkd_paper`, over whole intervals of its learning), relative to itself at
constant temperature. A teacher that is tapped for features is not fused, which is part of the cost.
Memory is the peak of a process of its own that does 4 steps; on a GPU, what torch allocated at
most.

    python benchmarks/cost.py
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlkd.reporting import hardware, versions
from rlkd.training.compose import options
from steps import Steps, peak_of_process, print_peak, take_turns

INTERVAL = 8
"""Steps from one learning of the agent to the next."""
AGENT = ["temperature=rlkd_paper", "temperature.warmup_epochs=0"]
BASE = ["method=kd", "temperature=constant"]


def variants() -> dict[str, list[str]]:
    """Name what is timed, and its overrides."""
    found = {"kd": BASE, "kd again": BASE}
    methods = [each for each in options("method") if each != "alone"]
    for method in methods:
        found[method] = [f"method={method}", "temperature=constant"]
        found[f"{method} + agent"] = [f"method={method}", *AGENT]
    for source in options("temperature"):
        if source not in ("constant", "rlkd_paper"):
            warm = ["temperature.warmup_epochs=0"] if source in ("random", "rlkd") else []
            found[f"kd, {source}"] = ["method=kd", f"temperature={source}", *warm]
    return found


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        Steps(sys.argv[2:])(4)
        print_peak()
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6 * INTERVAL, help="a multiple of 8")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--only", nargs="+", default=None, help="variants; kd is always there")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cost.json"))
    arguments = parser.parse_args()
    common = [f"trainer.precision={arguments.precision}", "trainer.channels_last=true"]
    chosen = {
        name: overrides
        for name, overrides in variants().items()
        if arguments.only is None or name in ("kd", "kd again", *arguments.only)
    }
    memory = (
        {}
        if arguments.no_memory
        else {name: peak_of_process(__file__, [*o, *common]) for name, o in chosen.items()}
    )
    steps = {name: Steps([*overrides, *common]) for name, overrides in chosen.items()}
    means = take_turns(steps, arguments.rounds)
    rows = {
        name: {
            "ms": 1e3 * means[name],
            "over_kd": means[name] / means["kd"],
            "over_itself_constant": means[name] / means[name.removesuffix(" + agent")]
            if name.endswith(" + agent")
            else None,
            "peak_mib": memory.get(name),
        }
        for name in steps
    }
    table = Table(title=f"R56 -> R20, {arguments.precision}, {hardware()}")
    for column in ("variant", "ms a step", "x KD", "x the same at constant T", "peak, MiB"):
        table.add_column(column)
    for name, row in rows.items():
        itself, used = row["over_itself_constant"], row["peak_mib"]
        table.add_row(
            name,
            f"{row['ms']:.1f}",
            f"{row['over_kd']:.3f}",
            f"{itself:.3f}" if itself else "",
            f"{used:.0f}" if used else "",
        )
    Console().print(table)
    report = {
        "command": " ".join(["python benchmarks/cost.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": versions(),
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
