"""What it brings, and costs, that the actor goes only as far as successive updates agree.

Pure noise: after 60 updates by rewards that no action changes, how far the mean action's
temperature is from where it started, over random states. The bandit of `bandit.py`: batches until
the error is a tenth of its start. A moving target: once the bandit's group of 8 has learnt for 60
look-aheads, all best temperatures fall by 1.5; look-aheads until the error that this makes is a
tenth of itself. Each with `evidence` and without it.

    python benchmarks/evidence.py
"""

import argparse
import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from rich.console import Console

from bandit import Arm, greedy_error, looked, play, run
from rlkd.agent.learner import Calibration, Learner
from rlkd.reporting import hardware, versions

UPDATES = 60
FALL = -1.5
CALIBRATIONS: tuple[Calibration, ...] = ("none", "additive", "recurrent")
PLAYED: tuple[tuple[Arm, float], ...] = (
    ("true", 0.0),
    ("group", 0.0),
    ("additive", 0.0),
    ("additive", 0.1),
)


def wandered(calibration: Calibration, evidence: bool, seed: int) -> float:
    """Learn from pure noise; return the mean distance of T from its start."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    learner = Learner(calibration=calibration, coherence=0.5, evidence=evidence)
    states = torch.rand(1024, 3, generator=generator)
    before = learner.policy(states)
    for _ in range(UPDATES):
        rollout, _ = play(learner, 0.0, generator)
        noise = torch.randn(len(rollout.reward), generator=generator)
        learner.learn(replace(rollout, reward=noise, raw_reward=noise), generator)
    after = learner.policy(states)
    moved = after.temperature(after.mean) - before.temperature(before.mean)
    return float(moved.abs().mean())


def played(arm: Arm, noise: float, evidence: bool, seed: int) -> int | None:
    """Return the batches that an arm of the bandit takes; None for more than 800."""
    return run("coherent", arm, noise, seed, 800, evidence=evidence).batches


def followed(evidence: bool, seed: int) -> int | None:
    """Return the look-aheads until the policy has followed its target; None for more than 400."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    learner = Learner(calibration="none", evidence=evidence)
    states = torch.rand(1024, 3, generator=generator)

    def learn(shift: float) -> None:
        rollout, reward = looked(learner, generator, shift=shift)
        learner.learn(rollout, generator, instance_reward=reward)

    for _ in range(UPDATES):
        learn(0.0)
    start = greedy_error(learner, states, shift=FALL)
    for done in range(1, 401):
        learn(FALL)
        if greedy_error(learner, states, shift=FALL) <= start / 10:
            return done
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evidence.json"))
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    noise, bandit, moving, console = [], [], [], Console()
    with ProcessPoolExecutor() as pool:
        cells = [*product(CALIBRATIONS, (False, True))]
        jobs = [[pool.submit(wandered, *cell, seed) for seed in seeds] for cell in cells]
        arms = [*product(PLAYED, (False, True))]
        games = [[pool.submit(played, *one, used, seed) for seed in seeds] for one, used in arms]
        moved = [[pool.submit(followed, used, seed) for seed in seeds] for used in (False, True)]
        for (calibration, used), cell in zip(cells, jobs, strict=True):
            found = [each.result() for each in cell]
            noise.append({"calibration": calibration, "evidence": used, "distance": found})
            mean = statistics.mean(found)
            console.print(
                f"noise, {calibration}, evidence {used}: {mean:.3f} (to {max(found):.3f})"
            )
        for ((arm, level), used), game in zip(arms, games, strict=True):
            counts = [each.result() for each in game]
            bandit.append({"arm": arm, "noise": level, "evidence": used, "batches": counts})
            console.print(f"bandit, {arm}, noise {level:g}, evidence {used}: {counts}")
        for used, runs in zip((False, True), moved, strict=True):
            counts = [each.result() for each in runs]
            moving.append({"evidence": used, "look_aheads": counts})
            console.print(f"moving target, evidence {used}: {counts}")
    report = {
        "command": " ".join(["python benchmarks/evidence.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": versions(),
        "updates": UPDATES,
        "seeds": list(seeds),
        "pure_noise": noise,
        "bandit": bandit,
        "moving_target": moving,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
