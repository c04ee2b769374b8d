"""Build the wheel and the sdist, and test the wheel by the sdist's tests, where no repository is.

python .ci/release.py            in a fresh environment of this Python and the newest torch: all
                                 fast tests (`make release-check`)
python .ci/release.py --here     in an environment that sees this one's packages: some tests, in
                                 under three minutes (CI)
python .ci/release.py --matrix   some tests with each Python and torch that this machine can
                                 install, one environment after the other, some 6 GB each; the rest
                                 is skipped, with the reason

The table is printed as Markdown; --table FILE writes it too. Needs the packages build and twine.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TORCHES = {"oldest": ("2.9.1", "0.24.1"), "newest": ("2.14.1", "0.29.1")}
"""torch and the torchvision that goes with it; the oldest is the least of pyproject.toml."""
SMOKE = (
    *("tests/losses/test_logits.py", "tests/temperature/test_constant.py", "tests/test_cli.py"),
    *("tests/models/cifar/test_golden.py", "tests/agent/test_ppo.py", "tests/test_release.py"),
    *("tests/commands/test_push.py", "tests/commands/test_teachers.py"),
)
EXTRAS = "timm,detection,export,hub,hf,slurm,fast"
TESTED_BY = (
    *("pytest", "pytest-xdist", "pytest-timeout"),
    *("beartype", "hypothesis", "stable-baselines3"),
)
TEST = ("-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-m", "not long and not gpu")
NEEDED = ("configs/config.yaml", "configs/known_teachers.yaml", "py.typed", "cli.py")
"""Of the package: a few of its files; all others of the sources are asked for as well."""
_CLOSING = re.compile(r"^\d+ (?:passed|failed).* in [\d.]+s.*$", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """A Python and a torch, and what the tests found there."""

    python: str
    torch: str
    found: str = ""
    failed: bool = False


def main() -> int:
    """Do what the arguments ask; return 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--here", action="store_true")
    parser.add_argument("--matrix", action="store_true")
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlkd-release-") as made:
        folder = Path(made)
        wheel, source = build(folder)
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if asked.here:
            cells = [borrowing(folder, wheel, source, here)]
        elif asked.matrix:
            pairs = [(python, torch) for python in PYTHONS for torch in TORCHES]
            cells = [fresh(folder, wheel, source, *pair, SMOKE) for pair in pairs]
        else:
            cells = [fresh(folder, wheel, source, here, "newest", ())]
    lines = ["| Python | torch | tests of the sdist against the wheel |", "|---|---|---|"]
    lines += [f"| {each.python} | {each.torch} | {each.found} |" for each in cells]
    print("\n".join(lines))
    if asked.table is not None:
        asked.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(any(each.failed for each in cells))


def build(folder: Path) -> tuple[Path, Path]:
    """Build both, check them, and return the wheel and the unpacked sdist."""
    dist = folder / "dist"
    run([sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT)])
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)])
    package = ROOT / "src" / "rlkd"
    wanted = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {f"rlkd/{each}" for each in NEEDED}
    if missing := wanted - {*zipfile.ZipFile(wheel).namelist()}:
        sys.exit(f"the wheel has no {', '.join(sorted(missing))}")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    print(f"built {wheel.name} ({wheel.stat().st_size:,} bytes) and {sdist.name}", flush=True)
    return wheel, folder / sdist.name.removesuffix(".tar.gz")


def borrowing(folder: Path, wheel: Path, source: Path, python: str) -> Cell:
    """Test the wheel in an environment that sees the packages of this one, but for rlkd."""
    place = environment(folder, sys.executable)
    run([str(place / "bin" / "pip"), "install", "--quiet", "--no-deps", str(wheel)])
    site = next(place.glob("lib/python*/site-packages"))
    packages = [each for each in sys.path if each.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(packages) + "\n")
    torch = run([str(place / "bin" / "python"), "-c", "import torch; print(torch.__version__)"])
    return tested(place, source, Cell(python, torch.strip()), SMOKE)


def fresh(
    folder: Path, wheel: Path, source: Path, python: str, which: str, tests: Sequence[str]
) -> Cell:
    """Test the wheel in an environment of its own, which is removed afterwards."""
    torch, vision = TORCHES[which]
    cell = Cell(python, f"{torch} ({which})")
    found = interpreter(python)
    if found is None:
        return skipped(cell, f"no python{python} on this machine")
    room = shutil.disk_usage(folder).free
    if room < 10 * 2**30:
        return skipped(cell, f"{room / 2**30:.0f} GiB are free, an environment takes 6 or more")
    place = environment(folder, found)
    pip = [str(place / "bin" / "pip"), "install", "--quiet"]
    pinned = [f"torch=={torch}", f"torchvision=={vision}", f"{wheel}[{EXTRAS}]", *TESTED_BY]
    installed = subprocess.run(
        [*pip, *pinned], env=clean(), capture_output=True, text=True, check=False
    )
    try:
        if installed.returncode:
            errors = [each for each in installed.stderr.splitlines() if "ERROR" in each]
            return skipped(cell, "not installable here: " + (errors or ["pip failed"])[-1][:120])
        return tested(place, source, cell, tests)
    finally:
        shutil.rmtree(place)


def tested(place: Path, source: Path, cell: Cell, tests: Sequence[str]) -> Cell:
    """Run tests in the unpacked sdist, having seen that rlkd is the environment's own."""
    python = str(place / "bin" / "python")
    where = run([python, "-c", "import rlkd; print(rlkd.__file__)"], cwd=source).strip()
    if not where.startswith(str(place)):
        sys.exit(f"rlkd is imported from {where}, not from the wheel")
    began = time.monotonic()
    done = subprocess.run(
        [python, *TEST, *tests],
        cwd=source,
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
    )
    closing = _CLOSING.findall(done.stdout)
    counted = closing[-1] if closing else f"no test ran, exit code {done.returncode}"
    if done.returncode:
        print(done.stdout[-8000:], done.stderr[-2000:], flush=True)
    found = re.sub(r" in [\d.]+s.*", "", counted) + f", {time.monotonic() - began:.0f} s"
    print(f"Python {cell.python}, torch {cell.torch}: {found}", flush=True)
    return Cell(cell.python, cell.torch, found, failed=done.returncode != 0)


def skipped(cell: Cell, reason: str) -> Cell:
    """Return the cell with the reason why nothing was tested."""
    print(f"Python {cell.python}, torch {cell.torch}: skipped, {reason}", flush=True)
    return Cell(cell.python, cell.torch, f"skipped: {reason}")


def environment(folder: Path, python: str) -> Path:
    """Make a virtual environment, and return its folder."""
    place = Path(tempfile.mkdtemp(prefix="environment-", dir=folder))
    run([python, "-m", "venv", str(place)])
    return place


def interpreter(version: str) -> str | None:
    """Return a Python of a version that starts here, of the PATH or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*sorted(map(str, pyenv.glob(f"{version}.*/bin/python"))), f"python{version}"]
    probe = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for each in candidates:
        if shutil.which(each) is None:
            continue
        done = subprocess.run([each, "-c", probe], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return each
    return None


def clean() -> dict[str, str]:
    """Return the environment's variables, but those that would bring in the sources."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {"OMP_NUM_THREADS": "1", **kept}


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command that must succeed, and return what it printed."""
    done = subprocess.run(
        command, cwd=cwd, env=clean(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
