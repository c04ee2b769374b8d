"""How fast a training step is, against the conventional recipe of the field. R56 -> R20, batch 64.

Conventional: images decoded and augmented one by one by torchvision's PIL transforms in a
DataLoader with 2 workers, fp32, eager, `.item()` of the loss at every step, constant temperature.
Here: the package's loader and step. Both take turns within one run; images per second are of the
median turn, warm-up turns left out. Loading and augmenting are inside the time of both.

    python benchmarks/throughput.py
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from rlkd import models
from rlkd.data.cifar import CIFAR100_MEAN, CIFAR100_STD
from rlkd.reporting import hardware, versions
from steps import Steps, random_images

BATCH = 64


class PilImages(Dataset):
    """Images as torchvision's CIFAR classes give them: an array, a PIL image, transforms."""

    def __init__(self, count: int) -> None:
        images = random_images(count)
        self.arrays = images.image.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = images.target.tolist()
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(CIFAR100_MEAN, CIFAR100_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.arrays[row]), self.targets[row]


class Conventional:
    """The recipe that most repositories of the field share."""

    def __init__(self, device: torch.device, images: int = 4096) -> None:
        torch.manual_seed(0)
        self.device = device
        self.loader = DataLoader(
            PilImages(images), batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True
        )
        self.teacher = models.create("resnet56", num_classes=100).eval().to(device)
        self.student = models.create("resnet20", num_classes=100).to(device)
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
        )
        self._batches = self._endless()
        self.loss_sum = 0.0

    def __call__(self, count: int) -> None:
        """Do some steps, loading and augmenting included."""
        for _ in range(count):
            image, target = (each.to(self.device) for each in next(self._batches))
            with torch.no_grad():
                teacher_logits = self.teacher(image)
            logits = self.student(image)
            kd = F.kl_div(
                F.log_softmax(logits / 4, dim=1),
                F.softmax(teacher_logits / 4, dim=1),
                reduction="batchmean",
            )
            loss = 0.1 * F.cross_entropy(logits, target) + 0.9 * 16 * kd
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.loss_sum += loss.item()

    def _endless(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader


def in_turns(
    variants: Mapping[str, Callable[[int], None]], rounds: int, *, warmup: int, group: int
) -> dict[str, list[float]]:
    """Let variants take turns of a group of steps; return each turn's images per second."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warmup + rounds):
        for name, steps in variants.items():
            began = time.perf_counter()
            steps(group)
            if turn >= warmup:
                rates[name].append(group * BATCH / (time.perf_counter() - began))
    return rates


def shown(rates: Mapping[str, list[float]]) -> Table:
    """Return the rates as a table, each relative to the first recipe's."""
    base = statistics.median(next(iter(rates.values())))
    table = Table(title=f"R56 -> R20, batch {BATCH}, {hardware()}")
    for column in ("recipe", "images/s (median)", "min - max", "x conventional"):
        table.add_column(column)
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values):.0f} - {max(values):.0f}"
        table.add_row(name, f"{middle:.0f}", spread, f"{middle / base:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup-rounds", type=int, default=1)
    parser.add_argument("--group", type=int, default=32, help="steps of one turn")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/throughput.json"))
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    constant = ["temperature=constant"]
    rlkd = ["temperature=rlkd", "temperature.warmup_epochs=0"]
    bf16 = ["trainer.precision=bf16-mixed"]
    last = ["trainer.channels_last=true"]
    variants = {
        "conventional, fp32": Conventional(device),
        "rlkd, constant T, fp32": Steps(constant),
        "rlkd, constant T, fp32, channels_last": Steps([*constant, *last]),
        "rlkd, constant T, bf16": Steps([*constant, *bf16]),
        "rlkd, constant T, bf16, channels_last": Steps([*constant, *bf16, *last]),
        "rlkd, the agent, bf16, channels_last": Steps([*rlkd, *bf16, *last]),
    }
    rates = in_turns(
        variants, arguments.rounds, warmup=arguments.warmup_rounds, group=arguments.group
    )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    base = medians[next(iter(medians))]
    Console().print(shown(rates))
    report = {
        "command": "python benchmarks/throughput.py " + " ".join(sys.argv[1:]),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "images_per_second": rates,
        "median_over_conventional": {name: value / base for name, value in medians.items()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
