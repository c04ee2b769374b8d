"""Two versions of this project, step against step: does a change make training slower?

Each version has a process of its own, from a checkout of it, and they take turns in an order drawn
anew: some steps of one, as many of the other. What else the machine does falls on both. A figure is
the median over the rounds of the ratio of seconds, after over before, with the median's 95 %
interval by the bootstrap. `again` is a second process of the version before: its distance from 1 is
the error of the measurement. The steps are those of `benchmarks/steps.py`, without a Trainer around
them.

    git worktree add --detach ../before COMMIT
    python benchmarks/before_after.py ../before
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

NO_WARMUP = "temperature.warmup_epochs=0"
SETTINGS: dict[str, list[str]] = {
    "constant": ["temperature=constant"],
    "rlkd": ["temperature=rlkd", NO_WARMUP],
    "rlkd_paper": ["temperature=rlkd_paper", NO_WARMUP],
    "rlkd, batch 16": ["temperature=rlkd", NO_WARMUP, "trainer.batch_size=16"],
    "constant, bf16-mixed": ["temperature=constant", "trainer.precision=bf16-mixed"],
}
"""R56 -> R20 on random images of 32 x 32."""


class Version:
    """A process that does training steps of a checkout, on demand."""

    def __init__(self, tree: Path, overrides: list[str]) -> None:
        command = [sys.executable, __file__, str(tree), "--serve", *overrides]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self(1)

    def __call__(self, steps: int) -> float:
        """Return the seconds that so many steps take."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the steps of a version ended with the error above")
        return float(line)

    def end(self) -> None:
        """Let the process go."""
        self._process.communicate()


def serve(tree: Path, overrides: list[str]) -> None:
    """Do as many steps as each line of the standard input says, and print their seconds."""
    sys.path[:0] = [str(tree / "src"), str(tree / "benchmarks")]
    import torch

    import rlkd
    from steps import Steps

    assert Path(rlkd.__file__).is_relative_to(tree), rlkd.__file__
    torch.set_num_threads(1)
    steps = Steps(["trainer.precision=32-true", *overrides])
    for line in sys.stdin:
        start = time.perf_counter()
        steps(int(line))
        print(time.perf_counter() - start, flush=True)


def compared(before: Path, after: Path, overrides: list[str], rounds: int, group: int) -> dict:
    """Time a setting in both versions."""
    trees = {"before": before, "again": before, "after": after}
    versions = {name: Version(tree, overrides) for name, tree in trees.items()}
    for one in versions.values():
        one(group)
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(sorted(versions), len(versions)):
            seconds[name].append(versions[name](group) / group)
    for one in versions.values():
        one.end()
    base = np.array(seconds["before"])
    drawn = np.random.default_rng(0).integers(rounds, size=(2000, rounds))
    figures: dict[str, object] = {"milliseconds": round(1000 * float(np.median(base)), 2)}
    for name in ("after", "again"):
        ratios = np.array(seconds[name]) / base
        low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
        figures[name] = [round(float(each), 4) for each in (np.median(ratios), low, high)]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout of the version before")
    parser.add_argument("--serve", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--group", type=int, default=8, help="steps of one turn")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/before_after.json"))
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.before, arguments.serve)
        return
    from rlkd.reporting import hardware, versions

    before, after = arguments.before.resolve(), Path(__file__).resolve().parents[1]
    commits = {
        name: subprocess.run(
            ["git", "-C", str(tree), "describe", "--always", "--dirty"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for name, tree in (("before", before), ("after", after))
    }
    found: dict[str, dict] = {}
    for name, overrides in SETTINGS.items():
        found[name] = compared(before, after, overrides, arguments.rounds, arguments.group)
        print(f"{name:22} {found[name]}", flush=True)
    content = {
        "command": f"python benchmarks/before_after.py BEFORE --rounds {arguments.rounds} "
        f"--group {arguments.group}",
        "hardware": hardware(),
        "versions": versions(),
        "commits": commits,
        "rounds": arguments.rounds,
        "group": arguments.group,
        "median ratio and its 95 % interval": found,
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
