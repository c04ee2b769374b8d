"""What each loss and each temperature source costs: step time and memory relative to constant KD.

R56 -> R20, batch 64, random images of CIFAR's size. All variants take turns step by step, in a new
order every round, so that what else the machine does falls on all alike. Steps in which the agent
learns or measures are told from plain ones; the figure is the mean of the medians of the kinds, in
their shares, over that of constant KD, and `kd again` tells the error of it.

What the agent adds to a method is timed within one training: its steps are taken in turns with the
agent (`rlkd_paper`, over whole intervals of its learning) and at constant temperature, by the same
networks, optimiser and loader. `ratio` is from the time in the parts of a step that know of the
source, relative to the rest of the very step, where the machine's pace falls on both;
`whole_ratio` is from whole steps, which also sees what the agent may cost elsewhere, and is far
noisier. Neither holds exploration. Standard errors are of the bootstrap. For KD the same is done
with a second constant source in the agent's place. Of its rounds, half are taken against KD.

A teacher that is tapped for features is not fused, which is part of the cost. Memory is the peak
of a process of its own that does 4 steps; on a GPU, what torch allocated at most.

    python benchmarks/cost.py
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlkd.config.compose import configure, options
from rlkd.engine import build
from rlkd.reporting import hardware, versions
from steps import Steps, peak_of_process, print_peak
from timing import take_turns, what_the_source_adds

Rows = dict[str, dict[str, float | None]]
INTERVAL = 8
"""Steps from one learning of the agent to the next."""
CONSTANT = ["temperature=constant"]
AGENT = ["temperature=rlkd_paper", "temperature.warmup_epochs=0"]
METHODS = [each for each in options("method") if each != "alone"]


def variants() -> dict[str, list[str]]:
    """Name what is timed against constant KD, and its overrides."""
    found = {name: ["method=kd", *CONSTANT] for name in ("kd", "kd again")}
    found |= {method: [f"method={method}", *CONSTANT] for method in METHODS}
    for source in options("temperature"):
        if source != "constant":
            warm = (
                ["temperature.warmup_epochs=0"]
                if source in ("random", "rlkd", "rlkd_paper")
                else []
            )
            found[f"kd, {source}"] = ["method=kd", f"temperature={source}", *warm]
    return found


def against_kd(
    names: Sequence[str] | None, common: list[str], rounds: int, *, memory: bool
) -> Rows:
    """Time variants in turns, and have the peak memory of each from a process of its own."""
    chosen = {
        name: [*overrides, *common]
        for name, overrides in variants().items()
        if names is None or name in ("kd", "kd again", *names)
    }
    peaks = {name: peak_of_process(__file__, chosen[name]) for name in chosen if memory}
    means = take_turns({name: Steps(overrides) for name, overrides in chosen.items()}, rounds)
    return {
        name: {
            "ms": 1e3 * mean,
            "over_kd": mean / means["kd"],
            "peak_mib": peaks.get(name),
        }
        for name, mean in means.items()
    }


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        Steps(sys.argv[2:])(4)
        print_peak()
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=8 * INTERVAL, help="a multiple of 16, half of it against KD"
    )
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--only", nargs="*", default=None, help="variants; kd is always there")
    parser.add_argument("--methods", nargs="*", default=METHODS, help="to which the agent adds")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cost.json"))
    arguments = parser.parse_args()
    if arguments.rounds % (2 * INTERVAL):
        parser.error(f"--rounds={arguments.rounds}: give a multiple of {2 * INTERVAL}")
    common = [f"trainer.precision={arguments.precision}", "trainer.channels_last=true"]
    rounds = arguments.rounds
    rows = against_kd(arguments.only, common, rounds // 2, memory=not arguments.no_memory)
    print_rows(rows, f"R56 -> R20, {arguments.precision}, {hardware()}")
    adds: Rows = {}
    for name, overrides in {
        "nothing (constant T, kd)": ["method=kd", *CONSTANT],
        **{method: [f"method={method}", *AGENT] for method in arguments.methods},
    }.items():
        training = Steps([*overrides, *common])
        plain = build.temperature(configure(CONSTANT), num_classes=100)
        adds[name] = {**what_the_source_adds(training, training.distiller, plain, rounds)}
    print_rows(adds, "what the agent adds")
    report = {
        "command": " ".join(["python benchmarks/cost.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": versions(),
        "rounds": rounds,
        "rows": rows,
        "the_agent_adds": adds,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def print_rows(rows: Rows, title: str) -> None:
    """Print a table."""
    table = Table("", *next(iter(rows.values())), title=title)
    for name, row in rows.items():
        table.add_row(name, *("" if each is None else f"{each:.4g}" for each in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
