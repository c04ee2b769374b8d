"""How much of the best reachable first-order gain a policy of each state captures, by stage.

A student trains with KD at T = 4. At some points of that training a look-ahead scores every
instance of some batches at each temperature of a grid, U_i(T), by two probes that share no image.
By one probe and one half of the batches temperatures are chosen; by the other probe and the other
half they are scored:

- `constant`: the temperature that is best on average.
- a state: a ridge regression of U on quadratic features of the state, for each temperature; each
  instance gets the one whose regression is greatest.
- `own best`: each instance's own best by the first probe, scored by the other. The first probe's
  noise lowers it, and a regression averages noise out: it is no bound.
- `own best, seen`: each instance's own best by the probe that scores it: no choice gains more.

Figures are gains over T = 4, a unit of learning rate, the mean over batches; `share` is that over
the gain of `own best`.

    python benchmarks/ceiling.py --root DIR --teacher resnet56_cifar100.pth
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import rlkd
from reward_signal import Bench
from rlkd.agent.look_ahead import moving
from rlkd.agent.state import FEATURES, StateOf
from rlkd.reporting import hardware, versions
from rlkd.temperature.look_ahead import gains

GRID = (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0)
BASE = GRID.index(4.0)
STATES: dict[str, str | list[str]] = {
    "the paper's": "paper",
    "with p of the target": ["teacher_target", "student_target"],
    "with what one instance differs in": [
        each for each in FEATURES if each not in ("epoch", "learning_rate", "hotter_gained")
    ],
}
CONTEXT = {"epoch": 0.5, "learning_rate": 0.5, "hotter_gained": 0.5}
"""What a batch has in common has no part: all that is scored together is of one moment."""
RIDGE = 1e-2


def quadratic(state: Tensor) -> Tensor:
    """Return 1, the features, and their products, standardised."""
    size = state.shape[1]
    row, column = torch.triu_indices(size, size)
    products = torch.cat((state, state[:, row] * state[:, column]), dim=1).double()
    scaled = (products - products.mean(0)) / products.std(0).clamp_min(1e-6)
    return torch.cat((torch.ones(len(state), 1, dtype=torch.float64), scaled), dim=1)


def chosen_by(state: Tensor, gain: Tensor, learnt: Tensor) -> Tensor:
    """Return the place in the grid that a regression on some rows chooses for every row."""
    features = quadratic(state)
    known, target = features[learnt], gain[learnt].double()
    gram = known.T @ known + RIDGE * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    return (features @ torch.linalg.solve(gram, known.T @ target)).argmax(dim=1)


@dataclass
class Looked:
    """What two probes say of some batches' instances."""

    gain: Tensor
    """U_i(T), shape (probe, instance, T)."""
    size: Tensor
    """Length of the gradient of an instance's term, of the same shape."""
    states: dict[str, Tensor]
    rows: int
    """Of a batch."""

    def scores(self, *, equal_steps: bool) -> dict[str, float]:
        """Return the gain over T = 4 of each way to choose.

        Args:
            equal_steps: whether an instance's temperatures are compared at the length of its
                gradient at T = 4.
        """
        size = self.size.clamp_min(1e-12)
        first, second = self.gain * size[..., BASE, None] / size if equal_steps else self.gain
        learnt = torch.arange(len(first)) < len(first) // 2

        def gained(choice: Tensor) -> float:
            scored = second.gather(1, choice[:, None])[:, 0] - second[:, BASE]
            return float(scored[~learnt].mean() * self.rows)

        result = {"constant": gained(first[learnt].mean(0).argmax().expand(len(first)))}
        for name, state in self.states.items():
            result[name] = gained(chosen_by(state, first, learnt))
        seen = {"own best": first, "own best, seen": second}
        return result | {name: gained(gain.argmax(dim=1)) for name, gain in seen.items()}


def look(bench: Bench, batches: int) -> Looked:
    """Look ahead at batches by both halves of the probe, where the student stands."""
    probes = [(bench.probe.image[part::2], bench.probe.target[part::2]) for part in (0, 1)]
    found: list[Tensor] = []
    states: dict[str, list[Tensor]] = {name: [] for name in STATES}
    for batch in islice(bench.other_batches(), batches):
        logits, taught = bench.logits(batch), bench.teacher(batch.image).float()
        for image, target in probes:
            along = moving(bench.student, batch.image, image, target, "cross_entropy")
            for each in GRID:
                loss = partial(rlkd.losses.kd, teacher_logits=taught, temperature=each)
                found.append(torch.stack(gains(loss, logits, along)))
        for name, state in STATES.items():
            states[name].append(StateOf(state)(logits, taught, batch.target, CONTEXT))
    shape = (batches, len(probes), len(GRID), 2, -1)  # and an instance of the batch
    gain, size = torch.stack(found).view(*shape).permute(3, 1, 0, 4, 2).flatten(2, 3)
    rows = found[0].shape[1]
    return Looked(gain, size, {name: torch.cat(held) for name, held in states.items()}, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="folder of CIFAR-100")
    parser.add_argument("--teacher", required=True, help="checkpoint of a ResNet-56")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--after", type=float, nargs="+", default=[1, 3, 10, 12], help="epochs")
    parser.add_argument("--fall", type=float, default=10, help="epochs until the rate falls")
    parser.add_argument("--batches", type=int, default=32, help="at each point")
    parser.add_argument("--images", type=int, default=None, help="to train on; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ceiling.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench, console, began = Bench(arguments), Console(), time.perf_counter()
    report = {
        "command": "python benchmarks/ceiling.py " + " ".join(sys.argv[1:]),
        "hardware": hardware(),
        "versions": versions(),
        "seed": arguments.seed,
        "points": [],
    }
    for after in sorted(arguments.after):
        bench.train_until(after, fall=arguments.fall)
        looked = look(bench, arguments.batches)
        for equal_steps in (False, True):
            found = looked.scores(equal_steps=equal_steps)
            point = {"after_epochs": after, "learning_rate": bench.rate, "equal_steps": equal_steps}
            report["points"].append(point | {"gain": found})
            steps = "gradients of one length" if equal_steps else "the loss's own weights"
            title = f"after {after:g} epochs, rate {bench.rate:g}, {steps}"
            table = Table(title=f"{title} ({time.perf_counter() - began:.0f} s)")
            for column in ("temperatures", "gain over T = 4", "share"):
                table.add_column(column)
            for name, gain in found.items():
                table.add_row(name, f"{gain:.4g}", f"{100 * gain / found['own best']:.0f} %")
            console.print(table)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
