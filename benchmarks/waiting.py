"""How long OpenMP's threads look for work before they sleep: what it costs alone and shared.

python benchmarks/waiting.py [--out FILE]

Training steps of small networks with a thread a core, alone and beside a process or two that keep
a core busy each; by libgomp's default and with the command line's GOMP_SPINCOUNT, in turns, and
with one thread. Each turn is a process of its own, since libgomp reads the variable once.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from rlkd import models
from rlkd.cli import SPINS
from rlkd.reporting import hardware, versions

NETWORKS = {"convnet_tiny": (48, 16), "resnet20": (32, 64)}
"""Name to the side of an image and the batch."""
ALL = os.cpu_count() or 1
WAYS = {"default": (ALL, None), "sleeps soon": (ALL, SPINS), "one thread": (1, None)}
"""Name to threads and GOMP_SPINCOUNT."""
BUSY = "while True: pass"


def images_per_second(name: str, threads: int, seconds: float) -> float:
    """Train a network on noise for some seconds."""
    side, batch = NETWORKS[name]
    torch.set_num_threads(threads)
    network = models.create(name, num_classes=10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    done, began = -3, time.perf_counter()
    while time.perf_counter() - began < seconds or done < 1:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        done += 1
        if done == 0:  # warm
            began = time.perf_counter()
    return done * batch / (time.perf_counter() - began)


def turn(name: str, way: str, seconds: float) -> float:
    """Do the same in a process of its own."""
    threads, spins = WAYS[way]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--one", name, str(threads), str(seconds)]
    told = subprocess.run(
        command,
        env=kept | ({} if spins is None else {"GOMP_SPINCOUNT": spins}),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(told.stdout)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs=3, metavar=("NETWORK", "THREADS", "SECONDS"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("runs/waiting.json"))
    asked = parser.parse_args()
    if asked.one:
        name, threads, seconds = asked.one
        print(images_per_second(name, int(threads), float(seconds)))
        return
    found: dict[str, Any] = {}
    for name in NETWORKS:
        for busy in range(3):
            others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
            try:
                rates: dict[str, list[float]] = {way: [] for way in WAYS}
                for _ in range(asked.turns):
                    for way in WAYS:
                        rates[way].append(turn(name, way, asked.seconds))
            finally:
                for each in others:
                    each.kill()
                    each.wait()
            found[f"{name}, {busy} busy"] = rates
            medians = {way: statistics.median(each) for way, each in rates.items()}
            print(name, busy, {way: f"{rate:.0f}" for way, rate in medians.items()}, flush=True)
    held = {
        "command": f"python {' '.join(sys.argv)}",
        "hardware": hardware(),
        "threads": ALL,
        "spins": int(SPINS),
        "versions": versions(),
        "images_per_second": found,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
