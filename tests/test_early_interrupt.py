"""Ctrl-C in the first seconds, amid imports and composing: one line, and nothing is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

INTERRUPTED = """
import os, signal, sys

class InterruptAt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, InterruptAt())
from rlkd.cli import main
sys.exit(main(["distill", "data=digits", "student=convnet_tiny", f"output={sys.argv[2]}"]))
"""
"""The command line, which gets a Ctrl-C at the moment it begins to import a module."""


@pytest.mark.parametrize(
    "module",
    ["rich.console", "torch", "torch._C", "lightning", "rlkd.commands.verbs", "sklearn.datasets"],
)
def test_an_interrupt_amid_imports_is_one_line_and_leaves_nothing(
    module: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "rlkd: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_that_is_ignored_stays_so(tmp_path: Path) -> None:
    ignoring = INTERRUPTED.replace(
        "class", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nclass", 1
    )
    ignoring = ignoring.replace('"distill"', '"ls", "task"').replace(
        ', "data=digits", "student=convnet_tiny", f"output={sys.argv[2]}"', ""
    )
    done = subprocess.run(
        [sys.executable, "-c", ignoring, "torch", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("task: ")
