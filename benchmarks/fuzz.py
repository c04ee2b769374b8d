"""Do hostile inputs end in something sane, or in a refusal of one line?

Each input is drawn from its kind and number alone, tried in a process with limits, and judged: a
traceback, a line too many, more than 10 seconds, a file touched outside the output, a program
started or a figure that is none is a failure. Inputs of a minute go round over the kinds. A failure
comes back with its kind and seed:

    python benchmarks/fuzz.py --inputs 10000
    python benchmarks/fuzz.py --minutes 5 --kind images --kind tar=500
    python benchmarks/fuzz.py --kind images --seed 122 --inputs 1 --keep runs/fuzz
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from hostile.kinds import KINDS
from hostile.runner import Runner
from hostile.verdict import Verdict
from rlkd.reporting import hardware, versions

ROUND = 50
SAMPLE = 50
"""Accepted inputs, and as many refused ones, that are kept to be read."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=None, help="stop after so many")
    parser.add_argument("--inputs", type=int, default=10_000, help="over all kinds")
    parser.add_argument("--seed", type=int, default=0, help="of each kind's first input")
    parser.add_argument("--kind", action="append", help="one of all kinds, or KIND=INPUTS")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that an input may take")
    parser.add_argument("--keep", type=Path, default=None, help="folder to leave the inputs in")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fuzz.json"))
    arguments = parser.parse_args()
    left = shares(arguments.kind or list(KINDS), arguments.inputs)
    if left.keys() - KINDS.keys():
        parser.error(f"the kinds are {', '.join(KINDS)}")
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="rlkd-fuzz-"))
    runner = Runner(folder.resolve(), limit=arguments.limit, keep=bool(arguments.keep))
    verdicts, began = list[Verdict](), time.perf_counter()
    first = arguments.seed
    try:
        while any(left.values()):
            for kind in left:
                for verdict in runner.run(kind, range(first, first + min(ROUND, left[kind]))):
                    verdicts.append(verdict)
                    if verdict.outcome == "failed" or arguments.inputs == 1:
                        print(in_words(verdict), flush=True)
                left[kind] -= min(ROUND, left[kind])
            first += ROUND
            print(f"{len(verdicts)} inputs, {time.perf_counter() - began:.0f} s", flush=True)
            write(arguments.out, verdicts, time.perf_counter() - began)
            if arguments.minutes and time.perf_counter() - began > 60 * arguments.minutes:
                break
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    failed = sum(each.outcome == "failed" for each in verdicts)
    print(f"{len(verdicts)} inputs, {failed} failed: {arguments.out}")
    sys.exit(1 if failed else 0)


def shares(kinds: Sequence[str], inputs: int) -> dict[str, int]:
    """Return how many inputs each kind gets: what it says, or an equal part of all."""
    named = [each.partition("=") for each in kinds]
    return {kind: int(own or -(-inputs // len(named))) for kind, _, own in named}


def in_words(verdict: Verdict) -> str:
    """Return an input and what became of it, to be read."""
    said = "\n    ".join(verdict.said[-600:].splitlines()[-6:])
    root = f" ({verdict.failure}: {verdict.root})" if verdict.root else ""
    return f"{verdict.kind} {verdict.seed}: {verdict.outcome}{root}\n  {verdict.words}\n    {said}"


def write(out: Path, verdicts: Sequence[Verdict], seconds: float) -> None:
    """Write the outcomes as JSON, and beside it the sample and the failures to be read."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    slowest: dict[str, float] = defaultdict(float)
    for each in verdicts:
        outcomes[each.kind][each.failure or each.outcome] += 1
        slowest[each.kind] = max(slowest[each.kind], round(each.seconds, 2))
    failures = [each for each in verdicts if each.outcome == "failed"]
    by_root: dict[str, list[Verdict]] = defaultdict(list)
    for each in failures:
        by_root[f"{each.failure}: {each.root}"].append(each)
    report: dict[str, Any] = {
        "command": " ".join(["python benchmarks/fuzz.py", *sys.argv[1:]]),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "seconds": round(seconds),
        "inputs": len(verdicts),
        "failed": len(failures),
        "outcomes": {kind: dict(each.most_common()) for kind, each in outcomes.items()},
        "slowest_seconds": dict(slowest),
        "failures": [
            {
                "root": root,
                "count": len(found),
                "kind": found[0].kind,
                "seeds": [each.seed for each in found][:20],
                "alone": found[0].alone,
                "input": found[0].words,
                "said": found[0].said[-600:],
            }
            for root, found in sorted(by_root.items(), key=lambda each: -len(each[1]))
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    kept = [*failures]
    for outcome in ("accepted", "refused"):
        every = [each for each in verdicts if each.outcome == outcome]
        kept += Random(0).sample(every, min(SAMPLE, len(every)))
    text = "\n\n".join(map(in_words, kept))
    out.with_suffix(".txt").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def commit() -> str:
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    told = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
