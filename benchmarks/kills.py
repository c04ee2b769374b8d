"""Does what is killed in the midst of writing a file lose anything, and end as what was not?

Commands on digits and shapes are killed with SIGKILL while they write: `rlkd.atomic` waits at each
moment of writing a file (begun, written, synced, renamed, done) until this script lets it go on or
kills it. Which file, which moment and which time is drawn by --seed; a fifth of the kills come up
to 0.3 seconds later than that. Of two ranks the one that writes, the other or both are killed. The
same command then starts again, until it gets through. After each kill every file must be whole and
none of those before gone; in the end the folder must be as after a command that nothing disturbed:
weights and exported files to the bit, every figure but durations, and no passing file.

    python benchmarks/kills.py --kills 200
    python benchmarks/kills.py --kills 30 --only distill export
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from kills_folders import State, faults_after_a_kill, state_of
from rlkd.atomic import GATE
from rlkd.cli import main as command_line
from rlkd.reporting import hardware, versions
from rlkd.text_files import write_object

PRELOADED = ["rlkd.cli", "rlkd.commands.verbs", "sklearn.datasets", "torch.utils.tensorboard"]
PATIENCE = 120.0
"""Seconds in which a process has to get to its next moment, or to its end."""
RANKS_PATIENCE = 20.0
"""Seconds in which a rank has to end by itself once another was killed."""
ENDS = {0, 2, -signal.SIGKILL}
"""How a rank may end where one is killed: by itself, with a line that the other is gone, or so."""
LATER, LATEST = 0.2, 0.3
"""The share of kills that come after their moment, and by at most how many seconds."""
SMALL = (
    *("trainer.accelerator=cpu", "trainer.threads=1", "trainer.batch_size=16"),
    *("trainer.epochs=3", "trainer.evaluate_every=1", "scheduler=multistep"),
)
RLKD = (
    *("temperature=rlkd", "temperature.update_interval=1", "temperature.probe_interval=2"),
    *("temperature.warmup_epochs=1", "exploration.epochs=1", "data.limit=64", "probe.size=16"),
)
SAVING = "trainer.checkpoint_every_steps=2"


@dataclass(frozen=True)
class Command:
    """What is killed over and over."""

    words: tuple[str, ...]
    """OUT stands for the folder that it writes to."""
    ranks: int = 1
    share: int = 2
    """Kills in each round of all commands: fewer where a start takes long."""
    older: Path | None = None
    """What is in that folder before."""


@dataclass
class Life:
    """What became of one start of a command."""

    killed: str | None = None
    """The file and the moment; None where it got through."""
    seen: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    stopping: float = 0.0
    """Seconds from the kill to the end of all ranks."""


class Lives:
    """Starts commands in processes that fork from one which has imported everything once.

    Args:
        folder: for the socket and for what is printed.
    """

    def __init__(self, folder: Path) -> None:
        self.printed, self.place = folder / "printed", folder / "gate"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.gate = socket.socket(socket.AF_UNIX)
        self.gate.bind(os.fspath(self.place))
        self.gate.listen()
        self.gate.settimeout(0.02)

    def live(
        self,
        command: Command,
        output: Path,
        aim: tuple[str, str] | None = None,
        nth: int = 1,
        draw: random.Random | None = None,
    ) -> Life:
        """Start a command; kill it when it is at a moment for the nth time."""
        life, draw = Life(), draw or random.Random(0)
        victims = draw.choice(["writer", "another", "all"])
        delay = LATEST * draw.random() if draw.random() < LATER else 0.0
        due, killed_at, writer = float("inf"), float("inf"), 0
        words = [each.replace("OUT", os.fspath(output)) for each in command.words]
        processes = [self._start(words, each) for each in _rank_variables(command.ranks)]
        for moment, pid in self._moments(processes):
            if moment is not None:
                life.seen[moment] += 1
                if moment == aim and life.seen[aim] == nth:
                    life.killed = f"{moment[0]}, {'after ' if delay else ''}{moment[1]}"
                    due, writer = time.monotonic() + delay, pid
            if time.monotonic() >= due:
                _kill(processes, victims, writer)
                due, killed_at = float("inf"), time.monotonic()
            if time.monotonic() > killed_at + RANKS_PATIENCE:
                _kill(processes, "all", 0)
        for each in processes:
            each.join()
        codes = {each.exitcode for each in processes}
        if -signal.SIGKILL not in codes:
            life.killed = None  # it had ended before
        if not codes <= ({0} if life.killed is None else ENDS):
            raise SystemExit(f"{words} ended with {codes}: {self.printed.read_text()[-3000:]}")
        life.stopping = time.monotonic() - killed_at
        return life

    def _start(self, words: list[str], variables: dict[str, str]) -> BaseProcess:
        variables = {**variables, GATE: os.fspath(self.place)}
        process = self.context.Process(target=_be, args=(words, variables, self.printed))
        process.start()
        return process

    def _moments(
        self, processes: Sequence[BaseProcess]
    ) -> Iterator[tuple[tuple[str, str] | None, int]]:
        """Yield each file and moment that a process comes to, and the process, which then goes on.

        Between them None, ever so often.
        """
        deadline = time.monotonic() + PATIENCE
        while any(each.is_alive() for each in processes):
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing happens: {self.printed.read_text()[-3000:]}")
            try:
                door, _ = self.gate.accept()
            except TimeoutError:
                yield None, 0
                continue
            with door, suppress(OSError):
                moment, _, path = os.fsdecode(door.recv(8192)).partition(" ")
                peer = door.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                yield (kind(Path(path)), moment), struct.unpack("3i", peer)[0]
                door.sendall(b".")
            deadline = time.monotonic() + PATIENCE


def _kill(processes: Sequence[BaseProcess], victims: str, writer: int) -> None:
    """Kill the rank that writes, another one or all; where there is one, that."""
    chosen = [each for each in processes if victims == "all" or each.pid == writer]
    if victims == "another":
        chosen = [each for each in processes if each.pid != writer] or chosen
    for each in chosen:
        if each.is_alive() and each.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)


def _be(words: list[str], variables: dict[str, str], printed: Path) -> None:
    """Be the command line, in a process group of one's own."""
    os.setsid()
    os.environ.update(variables)
    mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    file = os.open(printed, mode)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.exit(command_line(words))


def _rank_variables(ranks: int) -> list[dict[str, str]]:
    """Return what torchrun sets for each rank."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "kills"}
    shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def kind(path: Path) -> str:
    """Return a file's name without the number of a step or a picture."""
    return (
        "step.ckpt" if path.suffix == ".ckpt" else "picture" if path.suffix == ".png" else path.name
    )


def commands(lives: Lives, folder: Path, only: Sequence[str]) -> dict[str, Command]:
    """Make what the commands need whose names begin as one of `only`, and return them."""
    base = ("student=convnet_tiny", *SMALL)
    teacher = ("train", "student=convnet_small", *SMALL, "data.limit=256")
    lives.live(Command((*teacher, "output=OUT")), folder / "teacher")
    taught = f"teacher.checkpoint={folder / 'teacher' / 'student.safetensors'}"
    lives.live(Command(("train", *base, "data.limit=64", "output=OUT")), folder / "run")
    if "predict boxes".startswith(tuple(only)):
        scenes = ("task=detection", "data=shapes", "data.train=4", "data.test=2", "data.size=64")
        detector = ("student=fasterrcnn_tiny", "task.detector.min_size=64", "trainer.batch_size=4")
        short = ("trainer.epochs=1", "trainer.accelerator=cpu", "trainer.threads=1")
        lives.live(
            Command(("train", *scenes, *detector, *short, "output=OUT")), folder / "detector"
        )
    export = ("export", f"run={folder / 'run'}")
    older, predicted = folder / "older", folder / "predicted"
    for name in ("student.safetensors", "student.onnx", "student.pt2"):
        (older / name).parent.mkdir(exist_ok=True)
        (older / name).write_bytes(b"an older one of the same name")
    (predicted / "pictures").mkdir(parents=True)
    (predicted / "pictures" / "0.png").write_bytes(b"an older one of the same name")
    write_object(predicted / "predictions.json", {"predictions": []})
    images = folder / "images"
    images.mkdir()
    _draw(images)
    made = {
        "distill": Command(("distill", *base, *RLKD, SAVING, taught, "output=OUT"), share=4),
        "distill, two ranks": Command(
            ("distill", *base, *RLKD, "data.limit=80", SAVING, taught, "output=OUT"),
            ranks=2,
            share=3,
        ),
        "train": Command(("train", *base, "data.limit=48", SAVING, "output=OUT")),
        "compare": Command(
            (
                "compare",
                *base,
                "data.limit=48",
                "temperature=constant,random",
                taught,
                "output=OUT",
            ),
            share=3,
        ),
        "export safetensors": Command(
            (*export, "format=safetensors", "to=OUT/student.safetensors"), older=older
        ),
        "export onnx": Command(
            (*export, "format=onnx", "to=OUT/student.onnx"), older=older, share=1
        ),
        "export torch_export": Command(
            (*export, "format=torch_export", "to=OUT/student.pt2"), older=older, share=1
        ),
        "predict classes": Command(
            ("predict", f"run={folder / 'run'}", f"images={images}", "output=OUT")
        ),
        "predict boxes": Command(
            ("predict", f"run={folder / 'detector'}", f"images={images}", "output=OUT"),
            older=predicted,
        ),
    }
    return {name: each for name, each in made.items() if name.startswith(tuple(only))}


def _draw(folder: Path) -> None:
    import numpy
    from PIL import Image

    pixels = numpy.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), numpy.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")


class Campaign:
    """One command, killed over and over.

    Args:
        lives: starts it.
        name: of the command.
        command: it.
        folder: to work in.
        seed: of what is drawn.
    """

    def __init__(self, lives: Lives, name: str, command: Command, folder: Path, seed: int) -> None:
        self.lives, self.name, self.command = lives, name, command
        self.draw = random.Random(f"{seed} {name}")
        self.output, whole = folder / "killed" / "out", folder / "whole" / "out"  # a page's title
        self._begin(whole)
        self.seen = lives.live(command, whole).seen
        self.files = sorted({file for file, _ in self.seen})
        self.expected = state_of(whole)
        self.kills = Counter[str]()
        self.ended = self.equal = 0
        self.faults: list[str] = []
        self.stopping = 0.0
        """The most seconds from a kill to the end of all ranks."""

    def kill(self, times: int) -> None:
        """Kill the command so many times, in as many folders as that takes, each to the end."""
        until = self.kills.total() + times
        while self.kills.total() < until:
            self._one_folder(until)

    def _one_folder(self, until: int) -> None:
        before = self._begin(self.output)
        self.lives.printed.unlink(missing_ok=True)
        while True:
            file = self.draw.choice(self.files)
            aim = self.draw.choice(sorted(each for each in self.seen if each[0] == file))
            nth = self.draw.randint(1, self.seen[aim])
            given = aim if self.kills.total() < until else None
            life = self.lives.live(self.command, self.output, given, nth, self.draw)
            if life.killed is None:
                break
            self.kills[life.killed] += 1
            self.stopping = max(self.stopping, life.stopping)
            faults = faults_after_a_kill(self.output, before, self.expected)
            self.faults += [f"killed at {life.killed}: {each}" for each in faults]
            before = state_of(self.output)
        said = self.lives.printed.read_text().splitlines()
        unsound = [line for line in said if "going on from step-" in line]
        differing = state_of(self.output).differences(self.expected)
        self.faults += [f"in the end: {each}" for each in (*unsound, *differing)]
        self.ended += 1
        self.equal += not differing

    def _begin(self, output: Path) -> State:
        """Make the folder that the command begins with."""
        shutil.rmtree(output, ignore_errors=True)
        if self.command.older is not None:
            shutil.copytree(self.command.older, output)
        return state_of(output)

    def report(self) -> dict[str, object]:
        """Return what became of it."""
        return {
            "ranks": self.command.ranks,
            "kills": self.kills.total(),
            "ends": self.ended,
            "ends_equal_to_the_undisturbed": self.equal,
            "longest_seconds_from_kill_to_end": round(self.stopping, 1),
            "faults": self.faults,
            "kills_by_file_and_moment": dict(sorted(self.kills.items())),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60.0, help="no kill after so many")
    parser.add_argument("--seed", type=int, default=0, help="of files, moments and victims")
    parser.add_argument("--only", nargs="+", default=[""], help="commands whose names begin so")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kills.json"))
    arguments = parser.parse_args()
    os.nice(10)
    with tempfile.TemporaryDirectory(prefix="rlkd-kills-") as name:
        folder = Path(name)
        lives = Lives(folder)
        campaigns = [
            Campaign(lives, name, command, folder / name.replace(" ", "_"), arguments.seed)
            for name, command in commands(lives, folder, arguments.only).items()
        ]
        began = time.monotonic()
        for each in itertools.cycle(campaigns):
            done = sum(each.kills.total() for each in campaigns)
            minutes = (time.monotonic() - began) / 60
            if done >= arguments.kills or minutes >= arguments.minutes:
                break
            each.kill(min(each.command.share, arguments.kills - done))
            print(f"{minutes:.1f} minutes, {done} kills; {each.name}: {each.report()}", flush=True)
    report = {
        "command": " ".join(["python benchmarks/kills.py", *sys.argv[1:]]),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "seed": arguments.seed,
        "minutes": round(minutes, 1),
        "kills": done,
        "lost": sum(len(each.faults) for each in campaigns),
        "commands": {each.name: each.report() for each in campaigns},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{report['kills']} kills, {report['lost']} lost, {report['minutes']} minutes")
    sys.exit(1 if report["lost"] else 0)


def commit() -> str:
    """Return the commit that this file is of."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
