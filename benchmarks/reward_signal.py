"""How much signal each reward source carries: can it tell the temperatures T = 1, 2, 4, 8 apart?

A student trains with KD at T = 4. At some points of that training, from the same weights and the
same momentum, a window of SGD steps is done with every batch at T = 1, 2, 4 or 8, and each reward
is taken. `effect` is the distance between the means of the best and the worst T; `sd` the spread of
one reward over windows at one T; `batches` how many training batches each of the two needs until
their means differ by 3 standard errors, 18 (sd / effect)^2 times the length of the window. Windows
at different T begin with the same weights and see the same batches: `paired` is the number where
each is compared with its own, 9 (sd of the difference / effect)^2 times the length.

A look-ahead predicts, before the step, what a batch at T would take off the loss of the next 64 or
128 images of the probe, to first order; `equal steps` divides that by the length of its gradient.

    python benchmarks/reward_signal.py --root DIR --teacher resnet56_cifar100.pth
"""

import argparse
import copy
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

import rlkd
from rlkd.agent import LookAhead, Reward
from rlkd.data import MemoryLoader, hold_out
from rlkd.data.datasets import cifar100
from rlkd.engine.scoring import scored_logits
from rlkd.models import Teacher, create, load_weights
from rlkd.reporting import hardware, versions
from rlkd.temperature.look_ahead import HeldOut, gains
from rlkd.types import Batch
from throughput import has_bf16

RATE, LOW_RATE = 0.05, 0.005
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
WINDOWS = (1, 4, 16)
PROBES = (256, 512, 1000)
LOOKED: tuple[tuple[int, HeldOut], ...] = (
    (64, "cross_entropy"),
    (128, "cross_entropy"),
    (128, "soft_error"),
)
METRICS = {name: Reward(metric=name) for name in ("accuracy", "loss")}


class Bench:
    """A student in training, its teacher and its data."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        dataset = cifar100(root=arguments.root)
        train, probe = hold_out(dataset.train, max(PROBES), seed=1)
        if arguments.images is not None:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
            train = train.select(order[: arguments.images])
        common = {"mean": dataset.mean, "std": dataset.std}
        self.loader = MemoryLoader(
            train, batch_size=64, shuffle=True, crop_padding=4, flip=True, drop_last=True, **common
        )
        # hold_out keeps classes together; a smaller probe is to have all of them too
        order = torch.randperm(len(probe), generator=torch.Generator().manual_seed(0))
        plain = MemoryLoader(probe.select(order), batch_size=len(probe), shuffle=False, **common)
        self.probe = next(iter(plain))
        self.student = create(arguments.student, num_classes=100)
        network = create("resnet56", num_classes=100)
        load_weights(network, Path(arguments.teacher))
        self.teacher = Teacher(network, dtype=torch.bfloat16 if has_bf16() else None, fuse=True)
        self.low = torch.autocast("cpu", torch.bfloat16, enabled=has_bf16())
        self.ahead = {
            (size, kind): LookAhead(
                self.student, self.probe.image, self.probe.target, held_out=kind, at_once=size
            )
            for size, kind in LOOKED
        }
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4
        )

        self._done, self._stream = 0, iter(self.loader)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    def train_until(self, epochs: float, *, fall: float | None) -> None:
        """Train at T = 4, in all so many epochs; from epoch `fall` on at the low rate."""
        size = len(self.loader)
        while self._done < round(epochs * size):
            batch = next(self._stream, None)
            if batch is None:
                self.loader.set_epoch(self.loader.epoch + 1)
                self._stream = iter(self.loader)
                batch = next(self._stream)
            if fall is not None and self._done >= round(fall * size):
                self.optimizer.param_groups[0]["lr"] = LOW_RATE
            self.step(batch, 4.0)
            self._done += 1

    def other_batches(self) -> Iterator[Batch]:
        """Return batches of an epoch that nothing is trained in."""
        held = self.loader.epoch
        self.loader.set_epoch(10_000 + held)
        batches = iter(self.loader)
        first = next(batches)  # an epoch is drawn when its first batch is asked for
        self.loader.set_epoch(held)
        return chain([first], batches)

    def step(self, batch: Batch, temperature: float) -> torch.Tensor:
        """Do one SGD step and return the logits that it started from."""
        with self.low:
            logits = self.student(batch.image).float()
        loss = 0.1 * F.cross_entropy(logits, batch.target) + 0.9 * rlkd.losses.kd(
            logits, self.teacher(batch.image), temperature
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return logits.detach()

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of this moment, with the batch's own statistics."""
        with self.low:
            return scored_logits(self.student, batch.image)

    def probe_scores(self) -> dict[tuple[str, str], float]:
        """Score the probes by both metrics; and in evaluation mode, by running statistics."""
        by_batch = self.logits(self.probe)
        self.student.eval()
        by_running = self.logits(self.probe)
        self.student.train()
        scores: dict[tuple[str, str], float] = {}
        for metric, reward in METRICS.items():
            for size in PROBES:
                score = reward.performance(by_batch[:size], self.probe.target[:size])
                scores[f"probe of {size}", metric] = float(score)
            score = reward.performance(by_running, self.probe.target)
            scores[f"probe of {max(PROBES)}, running statistics", metric] = float(score)
        return scores


def looked(bench: Bench, batch: Batch, number: int) -> dict[tuple, dict[float, float]]:
    """Return what each look-ahead predicts of a batch at each temperature."""
    found: dict[tuple, dict[float, float]] = defaultdict(dict)
    with bench.low:
        logits = bench.student(batch.image).float().detach()
        taught = bench.teacher(batch.image)
        for (size, kind), ahead in bench.ahead.items():
            moving = ahead(batch.image, turn=number)
            for each in TEMPERATURES:
                gained = gains(lambda z, each=each: rlkd.losses.kd(z, taught, each), logits, moving)
                total, name = gained.gain.sum(), f"look-ahead, {size} images"
                found[name, kind, 1][each] = float(total)
                length = gained.size.square().sum().sqrt()
                found[f"{name}, equal steps", kind, 1][each] = float(total / length)
    return found


def trial(
    bench: Bench, batches: list[Batch], temperature: float, windows: Sequence[int]
) -> dict[tuple, float]:
    """Do a window at one temperature; return each reward by (source, metric, window)."""
    rewards: dict[tuple, float] = {}
    before = bench.probe_scores()
    logits = bench.step(batches[0], temperature)
    same, following = bench.logits(batches[0]), bench.logits(batches[1])
    for metric, reward in METRICS.items():
        first = reward.performance(logits, batches[0].target)
        again = reward.performance(same, batches[0].target)
        rewards["same batch", metric, 1] = float(again - first)
        after = reward.performance(following, batches[1].target)
        rewards["next batch", metric, 1] = float(after - first)
    for done in range(1, max(windows) + 1):
        if done > 1:
            bench.step(batches[done - 1], temperature)
        if done in windows:
            after = bench.probe_scores()
            for (source, metric), score in after.items():
                rewards[source, metric, done] = score - before[source, metric]
    return rewards


def measure(
    bench: Bench, trials: int, stream: Iterator[Batch], windows: Sequence[int]
) -> list[dict]:
    """Measure every reward over `trials` windows from where the student stands."""
    networks = (bench.student.state_dict(), bench.optimizer.state_dict())
    saved = copy.deepcopy(networks)
    collected: dict[tuple, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(trials):
        batches = [next(stream) for _ in range(max(windows) + 1)]
        bench.student.load_state_dict(saved[0])
        for key, predicted in looked(bench, batches[0], number).items():
            for temperature, value in predicted.items():
                collected[key][temperature].append(value)
        for temperature in TEMPERATURES:
            bench.student.load_state_dict(saved[0])
            bench.optimizer.load_state_dict(copy.deepcopy(saved[1]))
            for key, value in trial(bench, batches, temperature, windows).items():
                collected[key][temperature].append(value)
    bench.student.load_state_dict(saved[0])
    bench.optimizer.load_state_dict(saved[1])
    rows = []
    for (name, metric, window), by_temperature in sorted(collected.items()):
        values = torch.tensor([by_temperature[t] for t in TEMPERATURES], dtype=torch.float64)
        means, sd = values.mean(1), values.var(1).mean().sqrt()
        best, worst = int(means.argmax()), int(means.argmin())
        effect = means[best] - means[worst]
        paired = (values[best] - values[worst]).std()
        rows.append(
            {
                "source": name,
                "metric": metric,
                "window": window,
                "means": means.tolist(),
                "sd": float(sd),
                "effect_over_sd": float(effect / sd),
                "batches": float(window * 18 * (sd / effect) ** 2),
                "paired": float(window * 9 * (paired / effect) ** 2),
                "prefers": TEMPERATURES[best],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="folder of CIFAR-100")
    parser.add_argument("--teacher", required=True, help="checkpoint of a ResNet-56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--after", type=float, nargs="+", default=[1, 3], help="epochs")
    parser.add_argument("--fall", type=float, help="epochs until the learning rate falls to 0.005")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--images", type=int, default=None, help="to train on; all by default")
    parser.add_argument("--windows", type=int, nargs="+", default=list(WINDOWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reward_signal.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    bench, console, began = Bench(arguments), Console(), time.perf_counter()
    report = {
        "command": "python benchmarks/reward_signal.py " + " ".join(sys.argv[1:]),
        "hardware": hardware(),
        "versions": versions(),
        "seed": arguments.seed,
        "trials": arguments.trials,
        "points": [],
    }
    for after in sorted(arguments.after):
        bench.train_until(after, fall=arguments.fall)
        rows = measure(bench, arguments.trials, bench.other_batches(), arguments.windows)
        rate = bench.rate
        report["points"].append({"after_epochs": after, "learning_rate": rate, "rows": rows})
        table = Table(
            title=f"after {after:g} epochs, rate {rate:g} ({time.perf_counter() - began:.0f} s)"
        )
        for column in (
            "reward",
            "metric",
            "updates",
            "effect / sd",
            "batches",
            "paired",
            "prefers",
        ):
            table.add_column(column)
        for row in sorted(rows, key=lambda row: row["batches"]):
            table.add_row(
                row["source"],
                row["metric"],
                str(row["window"]),
                f"{row['effect_over_sd']:.3f}",
                f"{row['batches']:.0f}",
                f"{row['paired']:.0f}",
                f"T {row['prefers']:g}",
            )
        console.print(table)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
