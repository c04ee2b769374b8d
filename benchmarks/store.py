"""The store of a teacher's logits: its size, pace and share of a step, and kills while it fills.

A store of CIFAR-100's shape: rows are written and read in the batches that a run does, at random,
from a cold page cache only where the system has dropped it. A kill is SIGKILL at a random moment of
processes that fill one store, two at a time; afterwards every row that counts as there is compared
with what the teacher computes.

    python benchmarks/store.py
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from rlkd import models
from rlkd.data import ImageSet, MemoryLoader
from rlkd.data.cifar import CIFAR100_MEAN, CIFAR100_STD
from rlkd.models import Teacher
from rlkd.reporting import hardware, versions
from rlkd.teacher_cache.records import Records, sizes
from rlkd.teacher_cache.stored import StoredTeacher, stored_teacher
from steps import Steps, random_images

IMAGES, VIEWS, CLASSES, BATCH = 50_000, 162, 100, 64
KILLED_IMAGES = 64


def pace(folder: Path, batches: int) -> dict[str, float]:
    """Write and read rows of a store of CIFAR-100's size; return rows a second."""
    half, rows = np.dtype("<f2"), IMAGES * VIEWS
    for path, size in sizes(folder, rows=rows, columns=CLASSES, dtype=half).items():
        path.touch()
        os.truncate(path, size)
    records = Records(folder, rows=rows, columns=CLASSES, dtype=half, writable=True)
    generator = np.random.default_rng(0)
    wanted = [generator.integers(rows, size=BATCH) for _ in range(batches)]
    values = generator.normal(size=(BATCH, CLASSES)).astype(half)
    began = time.perf_counter()
    for each in wanted:
        records.write(each, values)
    written = time.perf_counter() - began
    records.sync()
    synced = time.perf_counter() - began - written
    began = time.perf_counter()
    for each in wanted:
        _, there = records.read(each)
        assert there.all()
    read = time.perf_counter() - began
    return {
        "bytes_when_full": sum(sizes(folder, rows=rows, columns=CLASSES, dtype=half).values()),
        "rows_written_a_second": batches * BATCH / written,
        "seconds_to_sync": synced,
        "rows_read_a_second": batches * BATCH / read,
    }


def share(folder: Path, student: str, steps: int) -> dict[str, float]:
    """Return the milliseconds of a step with a warm store, and of the reading in it."""
    made = Steps(
        [
            *("temperature=constant", f"student={student}"),
            *("trainer.precision=bf16-mixed", "trainer.channels_last=true"),
        ],
        store=folder,
    )
    stored: Any = made.distiller.forward_pass.stored  # pyright: ignore
    reading: list[float] = []

    def timed(batch: Any) -> Any:
        began = time.perf_counter()
        given = stored(batch)
        reading.append(time.perf_counter() - began)
        return given

    vars(made.distiller.forward_pass)["stored"] = timed
    made(3)
    reading.clear()
    whole: list[float] = []
    for _ in range(steps):
        began = time.perf_counter()
        made(1)
        whole.append(time.perf_counter() - began)
    step, read = statistics.median(whole), statistics.median(reading)
    return {"step_ms": 1e3 * step, "reading_ms": 1e3 * read, "share": read / step}


def opened(folder: Path) -> StoredTeacher:
    """Open the store that is filled and killed: a ResNet-8 on some images."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images: ImageSet = random_images(KILLED_IMAGES)
    loader = MemoryLoader(
        images,
        batch_size=BATCH,
        mean=CIFAR100_MEAN,
        std=CIFAR100_STD,
        shuffle=True,
        crop_padding=4,
        flip=True,
    )
    teacher = Teacher(models.create("resnet8", num_classes=CLASSES))
    identity = {"views": loader.views, "classes": CLASSES, "cache_dtype": "float16"}
    digests = images.digests()
    return stored_teacher(folder, identity, digests, digests, teacher, loader, Console(quiet=True))


def _fill(folder: Path, seed: int) -> None:
    stored = opened(folder)
    wanted = list(stored.absent(16))
    random.Random(seed).shuffle(wanted)
    stored.fill(wanted, lambda count: None)


def kills(folder: Path, count: int) -> dict[str, int]:
    """Kill processes that fill a store, and look at every row after each kill.

    A row that once was there must be there for good, with the same bits.
    """
    context, moments = multiprocessing.get_context("fork"), random.Random(0)
    truth = _truth(folder.with_name("truth"))
    first: dict[int, bytes] = {}
    wrong = changed = lost = filled = new = 0
    store = folder
    for number in range(count):
        if filled == KILLED_IMAGES * VIEWS:  # begin a new one
            store, first, filled = folder.with_name(f"{folder.name}_{number}"), {}, 0
        seeds = (2 * number, 2 * number + 1)
        writers = [context.Process(target=_fill, args=(store, seed)) for seed in seeds]
        for each in writers:
            each.start()
        time.sleep(moments.uniform(0.02, 1.0))
        for each in writers:
            os.kill(each.pid or 0, signal.SIGKILL)
            each.join()
        rows = np.arange(KILLED_IMAGES * VIEWS)
        if not (store / "teacher_cache.json").is_file():
            continue  # killed before it was made
        held, there = opened(store).store.records.read(rows)
        off = np.abs(held.astype(np.float32) - truth).max(axis=1)
        wrong += int((off[there] > 0.02).sum())
        lost += sum(not there[row] for row in first)
        for row in np.flatnonzero(there):
            new += int(row) not in first
            changed += first.setdefault(int(row), held[row].tobytes()) != held[row].tobytes()
        filled = int(there.sum())
    found = {"kills": 2 * count, "rows_written": new}
    return found | {"wrong_rows": wrong, "changed_rows": changed, "lost_rows": lost}


def _truth(folder: Path) -> Any:
    context = multiprocessing.get_context("fork")
    whole = context.Process(target=_fill, args=(folder, 0))
    whole.start()
    whole.join()
    held, there = opened(folder).store.records.read(np.arange(KILLED_IMAGES * VIEWS))
    assert there.all()
    return held.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kills", type=int, default=50, help="times that two are killed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/store.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        report: dict[str, Any] = {
            "command": "python benchmarks/store.py " + " ".join(sys.argv[1:]),
            "hardware": hardware(),
            "versions": versions(),
            # First: it forks, which needs a process that has computed nothing with many threads.
            "killed": kills(place / "killed", arguments.kills),
        }
        (place / "paced").mkdir()
        report["cifar100"] = pace(place / "paced", arguments.batches)
        report["of_a_step"] = {
            name: share(place / name, name, arguments.steps) for name in ("resnet20", "resnet8")
        }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    Console(width=120).print_json(json.dumps(report))


if __name__ == "__main__":
    main()
