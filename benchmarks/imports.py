"""How long imports take, and which packages they load beside torch: each in a process of its own.

python benchmarks/imports.py
"""

import argparse
import json
import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

STATEMENTS = (
    "import torch",
    "from rlkd import ConstantTemperature",
    "from rlkd import TemperatureAgent, RandomTemperature",
    "from rlkd import losses",
    "from rlkd import models",
    "from rlkd import TemperatureAgent, losses, models",
    "from rlkd.models import create_detector",
    "from rlkd.lightning_callback import TemperatureCallback",
    "from rlkd.cli import main; main(['--help'])",
    "from rlkd.cli import main; main(['ls', 'task'])",
)
_TIMED = """
import contextlib, io, json, sys, time
began, before = time.perf_counter(), set(sys.modules)
with contextlib.redirect_stdout(io.StringIO()):
    exec(sys.argv[1])
print(json.dumps([time.perf_counter() - began, sorted(set(sys.modules) - before)]))
"""


def imported(statement: str) -> tuple[float, set[str]]:
    """Return the seconds that a statement takes in a new process, and the modules that it loads."""
    command = [sys.executable, "-c", _TIMED, statement]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    return seconds, set(modules)


def packages(modules: set[str]) -> list[str]:
    """Return the packages of modules, the standard library's left out."""
    tops = {each.partition(".")[0] for each in modules}
    return sorted(each for each in tops - sys.stdlib_module_names if not each.startswith("_"))


def main() -> None:
    """Print a table of the imports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torchs = imported(STATEMENTS[0])[1]
    table = Table("statement", "median s", "modules beside torch's", "of", title=f"{rounds} rounds")
    for statement in STATEMENTS:
        timed = [imported(statement) for _ in range(rounds)]
        further = timed[0][1] - torchs
        seconds = statistics.median(seconds for seconds, _ in timed)
        table.add_row(statement, f"{seconds:.2f}", str(len(further)), ", ".join(packages(further)))
    Console().print(table)


if __name__ == "__main__":
    main()
