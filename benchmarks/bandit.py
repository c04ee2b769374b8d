"""How soon the agent learns when one reward pays a whole batch: a bandit whose answer is known.

States are uniform in [0, 1]^3, the best temperature is T*(s) = 2 + 6 v (1 - c_t / 2), and the only
reward of a batch of 64 is the mean over its instances of -(T_i - T*(s_i))^2 / 10, plus Gaussian
noise. The score is the number of batches until the greedy policy's mean squared error is a tenth of
its start; PPO learns every 8 batches. Arms: the true per-instance rewards, free of noise (the
bound), the reward spread evenly, and both correctors. Each with exploration independent for every
instance (the paper's) and coherent within a batch (this package's).

    python benchmarks/bandit.py
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlkd.agent.learner import Learner
from rlkd.agent.look_ahead import paid
from rlkd.agent.rollout import Rollout, Trajectory
from rlkd.reporting import hardware, versions
from rlkd.temperature.look_ahead import Gains

Arm = Literal["true", "group", "even", "recurrent", "additive"]
LABELS: dict[Arm, str] = {
    "true": "true per-instance rewards (the bound)",
    "group": "true, of a group of 8 for each instance, learnt from every batch",
    "even": "evenly spread",
    "recurrent": "recurrent",
    "additive": "additive",
}
KNOWN: tuple[Arm, ...] = ("true", "group")
"""The arms whose rewards are known, free of noise."""
EXPLORATIONS = {"independent": 0.0, "coherent": 0.5}
BATCH, INTERVAL, GREEDY_STATES = 64, 8, 4096
LOUD, LOUD_BATCHES = 1.0, 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run."""

    exploration: str
    arm: Arm
    noise: float
    seed: int
    max_batches: int
    batches: int | None
    """Batches until the error was a tenth of its start; None: not within `max_batches`."""
    error_ratio: float
    """Greedy mean squared error at the end over that at the start."""


def best_temperature(state: Float[Tensor, "*rows 3"]) -> Float[Tensor, "*rows"]:
    """T*(s) = 2 + 6 v (1 - c_t / 2), in [2, 8]."""
    return 2 + 6 * state[..., 2] * (1 - state[..., 0] / 2)


def greedy_error(learner: Learner, state: Float[Tensor, "row 3"], *, shift: float = 0.0) -> float:
    """Return the mean squared error of the mean action's temperature."""
    policy = learner.policy(state)
    error = policy.temperature(policy.mean) - best_temperature(state) - shift
    return float(error.square().mean())


def play(
    learner: Learner, noise: float, generator: torch.Generator
) -> tuple[Rollout, Float[Tensor, "trajectory step"]]:
    """Act on 8 batches; return them as paid, and the instances' true shares of the rewards."""
    trajectories: list[Trajectory] = []
    shares: list[Tensor] = []
    for _ in range(INTERVAL):
        state = torch.rand(BATCH, 3, generator=generator)
        policy, raw_action = learner.explore(state, generator)
        error = policy.temperature(raw_action) - best_temperature(state)
        shares.append(-error.square() / 10 / BATCH)
        reward = shares[-1].sum() + noise * torch.randn((), generator=generator)
        trajectories.append(Trajectory(state, raw_action, torch.ones(BATCH), reward, reward))
    return Rollout.stack(trajectories), torch.stack(shares)


def looked(
    learner: Learner, generator: torch.Generator, *, shift: float = 0.0
) -> tuple[Rollout, Float[Tensor, "trajectory step"]]:
    """Look ahead at one batch; return 8 actions of each instance, and the true share of each.

    Args:
        learner: acts.
        generator: draws states and actions.
        shift: of the best temperatures.
    """
    state = torch.rand(BATCH, 1, 3, generator=generator)
    policy = learner.policy(state)
    group = policy.group(INTERVAL, generator)

    def gain_of(temperature: Tensor) -> Gains:
        error = (temperature - best_temperature(state) - shift)[:, 0]
        return Gains(-error.square() / 10 / BATCH, torch.ones(BATCH))

    learn_from = torch.ones(BATCH, dtype=torch.bool)
    found = paid(state, policy, group, gain_of, learn_from, equal_steps=False)
    return found.rollout, found.reward


def run(
    exploration: str, arm: Arm, noise: float, seed: int, max_batches: int, *, evidence: bool = True
) -> Outcome:
    """Learn until the error is a tenth of its start, or `max_batches` are spent."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.rand(GREEDY_STATES, 3, generator=generator)
    learner = Learner(
        calibration=arm if arm in ("recurrent", "additive") else "none",
        coherence=EXPLORATIONS[exploration],
        evidence=evidence,
    )
    start = error = greedy_error(learner, held_out)
    batches = 0
    while error > start / 10 and batches < max_batches:
        grouped, known = arm == "group", arm in KNOWN
        played = looked(learner, generator) if grouped else play(learner, noise, generator)
        learner.learn(played[0], generator, instance_reward=played[1] if known else None)
        batches += 1 if grouped else INTERVAL
        error = greedy_error(learner, held_out)
    reached = batches if error <= start / 10 else None
    return Outcome(exploration, arm, noise, seed, max_batches, reached, error / start)


def in_words(outcomes: Sequence[Outcome]) -> str:
    """Tell the runs of one cell: median and range, and how near those came that failed."""
    reached = sorted(each.batches for each in outcomes if each.batches is not None)
    failed = sorted(each.error_ratio for each in outcomes if each.batches is None)
    told = ""
    if 2 * len(reached) > len(outcomes):
        median = statistics.median_low(reached + [outcomes[0].max_batches] * len(failed))
        told = f"{median} ({reached[0]} to {reached[-1]})"
    elif reached:
        told = f"{', '.join(str(each) for each in reached)}"
    if failed:
        told += "; " if told else ""
        told += f"{len(failed)} of {len(outcomes)} not within {outcomes[0].max_batches}, error x "
        told += f"{failed[0]:.2f} to {failed[-1]:.2f}"
    return told


def table_of(outcomes: Sequence[Outcome], noises: Sequence[float]) -> Table:
    """Lay out one row for each exploration and arm, one column for each noise."""
    table = Table(title="Batches until the error is a tenth of its start: median (range)")
    for name in ("exploration", "rewards", *(f"noise {noise:g}" for noise in noises)):
        table.add_column(name)
    for exploration, arm in product(EXPLORATIONS, LABELS):
        row = [o for o in outcomes if (o.exploration, o.arm) == (exploration, arm)]
        cells = ([o for o in row if o.noise == noise or arm in KNOWN] for noise in noises)
        if row:
            table.add_row(exploration, LABELS[arm], *(in_words(cell) for cell in cells))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=100, help="0 to 4 chose the defaults")
    parser.add_argument("--max-batches", type=int, default=1200, help="twice as many at noise 1")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1, 1.0])
    parser.add_argument("--arms", nargs="+", default=list(LABELS), choices=get_args(Arm))
    parser.add_argument("--explorations", nargs="+", default=list(EXPLORATIONS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bandit.json"))
    arguments = parser.parse_args()
    began = time.perf_counter()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    every = product(arguments.explorations, arguments.arms, arguments.noise, seeds)
    runs = [
        (*each, arguments.max_batches * (LOUD_BATCHES if each[2] >= LOUD else 1))
        for each in every
        if each[1] not in KNOWN or each[2] == arguments.noise[0]
    ]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        outcomes = list(pool.map(run, *zip(*runs, strict=True)))
    Console(width=160).print(table_of(outcomes, arguments.noise))
    report = {
        "command": "python benchmarks/bandit.py " + " ".join(sys.argv[1:]),
        "hardware": hardware(),
        "versions": versions(),
        "seeds": list(seeds),
        "wall_seconds": time.perf_counter() - began,
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
