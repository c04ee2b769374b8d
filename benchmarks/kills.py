"""Does a run that is killed over and over end as the one that was not, to the bit?

RLKD on digits, with a checkpoint every few steps. The run is killed with SIGKILL at random moments,
a quarter of them before the first checkpoint since its start or right after it, the others later;
of several ranks one drawn at random is killed, and the launcher ends the others. Before some of the
restarts the newest checkpoint is cut short or one of its bits is flipped. In the end the student's
weights are compared, byte by byte, with those of a run that nothing disturbed.

    python benchmarks/kills.py
    python benchmarks/kills.py --ranks 2 --out benchmarks/results/kills_2_ranks.json
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rlkd.reporting import hardware, versions
from rlkd.training.run_folder import RunFolder

KEEP = 2
SETTINGS = [
    "data=digits",
    "temperature=rlkd",
    "temperature.update_interval=1",
    "temperature.probe_interval=8",
    "probe.size=128",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.evaluate_every=20",
    "trainer.checkpoint_every_steps=3",
    f"trainer.keep_checkpoints={KEEP}",
]
PATIENCE = 60.0
"""Seconds in which a launcher has to end once one of its ranks was killed."""


@dataclass
class Seen:
    """What became of the killed run."""

    phases: Counter[str] = field(default_factory=Counter[str])
    """Kills by what the run was doing."""
    resumed: int = 0
    told: list[str] = field(default_factory=list[str])
    """Lines about checkpoints that are not sound."""
    damaged: Counter[str] = field(default_factory=Counter[str])
    """Checkpoints damaged on purpose, by how."""
    stopping: list[float] = field(default_factory=list[float])
    """Seconds from a kill to the end of the launcher and all ranks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--damage", type=int, default=4, help="checkpoints to damage")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--runs", type=Path, default=Path("runs/kills"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kills.json"))
    arguments = parser.parse_args()
    shutil.rmtree(arguments.runs, ignore_errors=True)
    teacher = arguments.runs / "teacher"
    train = ["train", "data=digits", "student=convnet_small", "trainer.epochs=2"]
    subprocess.run(
        [sys.executable, "-m", "rlkd", *train, f"output={teacher}"], check=True, stdout=sys.stderr
    )
    given = [
        *SETTINGS,
        f"teacher.checkpoint={teacher / 'student.safetensors'}",
        f"trainer.epochs={arguments.epochs}",
    ]
    launcher = [sys.executable]
    if arguments.ranks > 1:
        several = ["--standalone", "--nproc-per-node", str(arguments.ranks)]
        launcher += ["-m", "torch.distributed.run", *several]
    command = [*launcher, "-m", "rlkd", "distill", *given]
    whole, killed = RunFolder(arguments.runs / "whole"), RunFolder(arguments.runs / "killed")
    starting, training = undisturbed(command, whole)
    print(f"undisturbed: {starting:.1f} s of starting, {training:.1f} s of training", flush=True)
    seen = disturbed(command, killed, starting, training, arguments)
    equal = whole.student.read_bytes() == killed.student.read_bytes()
    report = {
        "command": " ".join(["python benchmarks/kills.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": versions(),
        "seed": arguments.seed,
        "ranks": arguments.ranks,
        "settings": [*SETTINGS, f"trainer.epochs={arguments.epochs}"],
        "undisturbed_seconds": {"starting": starting, "training": training},
        "kills": seen.phases.total(),
        "kills_by_phase": dict(seen.phases),
        "restarts_from_a_checkpoint": seen.resumed,
        "checkpoints_damaged_on_purpose": dict(seen.damaged),
        "lines_about_unsound_checkpoints": seen.told,
        "longest_seconds_from_kill_to_end": max(seen.stopping, default=0.0),
        "weights_equal_to_the_bit": equal,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    complete = seen.phases.total() == arguments.kills
    sys.exit(0 if equal and complete and len(seen.told) == seen.damaged.total() else 1)


def undisturbed(command: list[str], folder: RunFolder) -> tuple[float, float]:
    """Do the whole run; return the seconds until its first checkpoint and from there to the end."""
    began, first = time.perf_counter(), 0.0
    process = start(command, folder)
    while process.poll() is None:
        if not first and folder.checkpoint is not None:
            first = time.perf_counter() - began
        time.sleep(0.01)
    if process.returncode:
        sys.exit(f"the undisturbed run failed: {output(folder).read_text()[-2000:]}")
    return first, time.perf_counter() - began - first


def disturbed(
    command: list[str],
    folder: RunFolder,
    starting: float,
    training: float,
    arguments: argparse.Namespace,
) -> Seen:
    """Kill the run, restart it, and let it end at last."""
    draw, seen = random.Random(arguments.seed), Seen()
    due = sorted(draw.sample(range(arguments.kills // 3, arguments.kills), arguments.damage))
    for number in range(arguments.kills):
        damaged = bool(due) and due[0] <= number and damage(folder, seen, draw)
        if damaged:
            del due[0]
        early = draw.random() < 0.25 and not damaged
        delay = draw.uniform(0, starting if early else 0.8 * training / arguments.kills)
        before = folder.checkpoint
        process = start(command, folder)
        began = time.perf_counter()
        while process.poll() is None and time.perf_counter() < began + delay:
            time.sleep(0.001)
            saved = folder.checkpoint != before
            if early and saved:
                break
            if not (early or saved):
                began = time.perf_counter()
        if process.poll() is not None:
            note(folder, seen)
            end_of(process, folder)
            print(f"complete after {seen.phases.total()} kills: give more --epochs", flush=True)
            return seen
        kill(process, arguments.ranks, draw, seen)
        note(folder, seen)
        done = phase(folder, before)
        seen.phases[done] += 1
        since = "its start" if early else "its first checkpoint"
        print(f"kill {number + 1}, {delay:.2f} s after {since}: {done}", flush=True)
    process = start(command, folder)
    process.wait()
    note(folder, seen)
    end_of(process, folder)
    return seen


def start(command: list[str], folder: RunFolder) -> subprocess.Popen[bytes]:
    """Start the run; what it prints goes into a file beside its folder."""
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    with output(folder).open("wb") as file:
        return subprocess.Popen([*command, f"output={folder.path}"], stdout=file, stderr=file)


def output(folder: RunFolder) -> Path:
    """Return where the run's latest process prints."""
    return folder.path.with_suffix(".txt")


def kill(process: subprocess.Popen[bytes], ranks: int, draw: random.Random, seen: Seen) -> None:
    """Kill the run, or one of its ranks, and wait until all of it has ended."""
    victims = [process.pid] if ranks == 1 else []
    while process.poll() is None and len(victims) < ranks:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        victims = [int(each) for each in children]
    killed = time.perf_counter()
    if victims:
        os.kill(draw.choice(victims), signal.SIGKILL)
    process.wait(PATIENCE)
    seen.stopping.append(time.perf_counter() - killed)


def note(folder: RunFolder, seen: Seen) -> None:
    """Note what the latest process, which has ended, said."""
    lines = output(folder).read_text(encoding="utf-8", errors="replace").splitlines()
    seen.resumed += any(line.startswith("resuming from") for line in lines)
    seen.told += [line for line in lines if "going on from step-" in line]


def end_of(process: subprocess.Popen[bytes], folder: RunFolder) -> None:
    """Make sure that a process that ended by itself ended well."""
    if process.returncode:
        sys.exit(
            f"a restart failed with {process.returncode}: {output(folder).read_text()[-2000:]}"
        )


def damage(folder: RunFolder, seen: Seen, draw: random.Random) -> bool:
    """Damage the newest checkpoint, if there is another one and none is still to be moved."""
    store, how = folder.checkpoints, ("cut short", "bit flipped")[seen.damaged.total() % 2]
    if store.newest is None or len(list(store.folder.glob("step-*.ckpt"))) < KEEP:
        return False
    if next(store.folder.glob(".step-*.tmp"), None) is not None:
        return False
    held = bytearray(store.newest.read_bytes())
    if how == "cut short":
        held = held[: draw.randrange(len(held))]
    else:
        held[draw.randrange(len(held))] ^= 1 << draw.randrange(8)
    store.newest.write_bytes(held)
    seen.damaged[how] += 1
    return True


def phase(folder: RunFolder, before: Path | None) -> str:
    """Tell from what is left what the run was doing when it was killed."""
    store = folder.checkpoints
    begun = next(store.folder.glob(".step-*.tmp"), None)
    if begun is not None:
        name = begun.name.removeprefix(".").removesuffix(".tmp")
        sums = store.folder / "SHA256SUMS"
        listed = sums.is_file() and name in sums.read_text()
        return "moving a checkpoint to its place" if listed else "writing a checkpoint"
    if next(store.folder.glob(".SHA256SUMS.*.tmp"), None) is not None:
        return "listing a checkpoint"
    if len(list(store.folder.glob("step-*.ckpt"))) > KEEP:
        return "removing the oldest checkpoint"
    if folder.student.exists():
        return "writing results"
    return "between checkpoints" if store.newest != before else "before the first new checkpoint"


if __name__ == "__main__":
    main()
