"""How fast training is, against the conventional recipe of the field. R56 -> R20, batch 64.

Conventional: images decoded and augmented one by one by torchvision's PIL transforms in a
DataLoader with 2 workers, fp32, eager, `.item()` of the loss at every step, constant temperature.
Here: the package's loader and step; with the teacher online, with its logits read from a store that
is full, and so in as many processes of one thread as there are processors, as `rlkd compare
jobs=auto` does. All take turns within one run; images per second are of the median turn, warm-up
turns left out. Loading and augmenting are inside the time of all.

    python benchmarks/throughput.py
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from rlkd import models
from rlkd.data.cifar import CIFAR100_MEAN, CIFAR100_STD
from rlkd.data.loaders.workers import cores
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

    def __init__(self, device: torch.device, images: int = 4096, student: str = "resnet20") -> None:
        torch.manual_seed(0)
        self.device = device
        self.loader = DataLoader(
            PilImages(images), batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True
        )
        self.teacher = models.create("resnet56", num_classes=100).eval().to(device)
        self.student = models.create(student, num_classes=100).to(device)
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


def shown(rates: Mapping[str, list[float]], student: str = "resnet20") -> Table:
    """Return the rates as a table, each relative to the first recipe's."""
    base = statistics.median(next(iter(rates.values())))
    table = Table(title=f"R56 -> {student}, batch {BATCH}, {hardware()}")
    for column in ("recipe", "images/s (median)", "min - max", "x conventional"):
        table.add_column(column)
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values):.0f} - {max(values):.0f}"
        table.add_row(name, f"{middle:.0f}", spread, f"{middle / base:.2f}")
    return table


class SideBySide:
    """As many processes of one thread as there are processors, each with steps of its own.

    Args:
        overrides: of all of them.
        folder: each has a store of the teacher's logits in it.
    """

    def __init__(self, overrides: list[str], folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._doors: list[Any] = []
        for number in range(cores()):
            here, there = context.Pipe()
            given = (there, overrides, folder / f"{number}")
            context.Process(target=_serve, args=given, daemon=True).start()
            self._doors.append(here)
        for door in self._doors:
            door.recv()

    def __call__(self, count: int) -> None:
        """Do some steps, shared out over the processes."""
        for number, door in enumerate(self._doors):
            door.send(len(range(number, count, len(self._doors))))
        for door in self._doors:
            door.recv()


def _serve(door: Any, overrides: list[str], store: Path) -> None:
    torch.set_num_threads(1)
    steps = Steps(overrides, store=store)
    door.send(True)
    while True:
        steps(door.recv())
        door.send(True)


def ours(folder: Path, student: str) -> dict[str, Callable[[int], None]]:
    """Return the package's variants: teacher online, its logits read, and runs side by side."""
    constant = [f"student={student}", "temperature=constant"]
    rlkd = [f"student={student}", "temperature=rlkd", "temperature.warmup_epochs=0"]
    bf16, compiled = ["trainer.precision=bf16-mixed"], ["trainer.compile=true"]
    first = ["trainer.channels_last=false"]
    best, named = (bf16, "bf16") if has_bf16() else ([], "fp32")
    variants = {
        "constant T, fp32, channels first": Steps([*constant, *first]),
        "constant T, fp32": Steps(constant),
        "warm store, fp32": Steps(constant, store=folder / "a"),
    }
    if best:
        variants |= {
            "constant T, bf16": Steps([*constant, *bf16]),
            "warm store, bf16": Steps([*constant, *bf16], store=folder / "b"),
        }
    beside = f"{cores()} side by side"
    both = {
        f"the agent, {named}": Steps([*rlkd, *best]),
        f"constant T, {named}, compiled": Steps([*constant, *best, *compiled]),
        f"warm store, the agent, {named}": Steps([*rlkd, *best], store=folder / "c"),
        f"warm store, {named}, compiled": Steps([*constant, *best, *compiled], store=folder / "d"),
        f"warm store, {named}, {beside}": SideBySide([*constant, *best], folder / "e"),
        f"warm store, {named}, compiled, {beside}": SideBySide(
            [*constant, *best, *compiled], folder / "f"
        ),
    }
    return {f"rlkd, {name}": each for name, each in {**variants, **both}.items()}


def has_bf16() -> bool:
    """Return whether this machine computes in bfloat16, and does not only pretend to."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def convolutions(name: str, *, trains: bool, dtype: torch.dtype) -> float:
    """Return the seconds that a network's convolutions alone take for a batch, channels last.

    Args:
        name: of the network, of 100 classes.
        trains: whether gradients of weights and inputs are reckoned too.
        dtype: of images and weights.
    """
    network = models.create(name, num_classes=100).to(
        dtype=dtype, memory_format=torch.channels_last
    )
    seen: list[tuple[torch.nn.Conv2d, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda conv, given, _: seen.append((conv, given[0])))
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    image = torch.randn(BATCH, 3, 32, 32, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    total = 0.0
    for number, (conv, given) in enumerate(seen):
        given = given.detach().requires_grad_(trains and number > 0)  # images have no gradient
        taken: list[float] = []
        for _ in range(7):
            began = time.perf_counter()
            with torch.set_grad_enabled(trains):
                out = conv(given)
            if trains:
                out.backward(out.detach())
            taken.append(time.perf_counter() - began)
        total += statistics.median(taken)
    return total


def roofline(student: str) -> dict[str, float]:
    """Return the images a second that the convolutions alone would allow on one thread."""
    low = torch.bfloat16 if has_bf16() else torch.float32
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trained = convolutions(student, trains=True, dtype=low)
    taught = convolutions("resnet56", trains=False, dtype=low)
    torch.set_num_threads(threads)
    return {"warm": BATCH / trained, "online": BATCH / (trained + taught)}


def measured(
    others: Mapping[str, Callable[[int], None]], arguments: argparse.Namespace, script: str
) -> None:
    """Let other recipes and the package's take turns, and write down how they did.

    Args:
        others: the first is what all are compared with.
        arguments: see `parsed`.
        script: the command's name.
    """
    with tempfile.TemporaryDirectory() as folder:
        variants = {**others, **ours(Path(folder), arguments.student)}
        alone = roofline(arguments.student)
        rates = in_turns(
            variants, arguments.rounds, warmup=arguments.warmup_rounds, group=arguments.group
        )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    console = Console(width=120)
    console.print(shown(rates, arguments.student))
    for name, rate in alone.items():
        console.print(
            f"convolutions alone, {name}, channels last: {rate:.0f} images/s a thread, "
            f"{rate * cores():.0f} on {cores()}"
        )
    report = {
        "command": f"python benchmarks/{script} "
        + " ".join("CHECKOUT" if Path(each).is_dir() else each for each in sys.argv[1:]),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "student": arguments.student,
        "images_per_second": rates,
        "convolutions_alone_per_thread": alone,
        **{
            f"median_over_{base.split(',')[0].replace(' ', '_')}": {
                name: value / medians[base] for name, value in medians.items()
            }
            for base in others
        },
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parser(text: str, out: str) -> argparse.ArgumentParser:
    """Return the arguments that both benchmarks share."""
    made = argparse.ArgumentParser(description=text.splitlines()[0])
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--warmup-rounds", type=int, default=1)
    made.add_argument("--group", type=int, default=32, help="steps of one turn")
    made.add_argument("--student", default="resnet20")
    made.add_argument("--out", type=Path, default=Path(out))
    return made


def main() -> None:
    arguments = parser(__doc__ or "", "benchmarks/results/throughput.json").parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    conventional = Conventional(device, student=arguments.student)
    measured({"conventional, fp32": conventional}, arguments, "throughput.py")


if __name__ == "__main__":
    main()
