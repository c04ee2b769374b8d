"""Keep what a study's runs leave for its tables: each run's settings, metrics and figures.

The folder that this makes is one that `rlkd compare study=... output=FOLDER` takes for the runs
themselves: with the same words it makes the tables again, and does the runs that are missing.
SHA256SUMS lists every file, `commit.txt` of each run the commit of the code that made it. A run
that is kept already is not replaced. Runs are made with relative paths: none names a machine.

    python benchmarks/keep_study.py runs/cifar100_small benchmarks/results/cifar100_small COMMIT
"""

import argparse
import shutil
import sys
from pathlib import Path

from rlkd.regular_files import file_sha256

KEPT = ("config.yaml", "images.json", "metrics.csv", "policy.json", "result.json")
COMMIT = "commit.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="output of the study")
    parser.add_argument("kept", type=Path, help="where they are kept")
    parser.add_argument("commit", help="of the code that made the runs that are not kept yet")
    arguments = parser.parse_args()
    done = [path.parent for path in sorted(arguments.runs.glob("*/result.json"))]
    for run in done:
        place = arguments.kept / run.name
        if place.is_dir():
            if file_sha256(run / "result.json") != file_sha256(place / "result.json"):
                sys.exit(f"{place} has other figures than {run}: a run that counts is run once")
            continue
        place.mkdir(parents=True)
        for name in KEPT:
            if (run / name).is_file():
                shutil.copyfile(run / name, place / name)
        (place / COMMIT).write_text(f"{arguments.commit}\n")
    files = sorted(path for path in arguments.kept.rglob("*") if path.name in (*KEPT, COMMIT))
    lines = [f"{file_sha256(path)}  {path.relative_to(arguments.kept)}\n" for path in files]
    (arguments.kept / "SHA256SUMS").write_text("".join(lines))
    print(f"{len(done)} runs in {arguments.kept}")


if __name__ == "__main__":
    main()
