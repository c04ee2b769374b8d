"""A run whose step is compiled as for CUDA graphs, beside the plain one: prints `GRAPHS BREAKS`.

    python -m tests.support.recorded_run TEACHER FOLDER BACKEND SETTING ...

Raises where both differ by more than rounding, in weights or in figures.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.support.runs import assert_same_figures, silent, tiny

from rlkd.engine import compile as compiling
from rlkd.engine.run import distill
from rlkd.engine.run_folder import RunFolder


def main() -> None:
    teacher, output, backend, *settings = sys.argv[1:]
    plain, fast = (RunFolder(Path(output) / name) for name in ("plain", "fast"))
    named: Any = vars(compiling)
    named["_BACKEND"] = backend
    distill(tiny(Path(teacher), plain.path, *settings), console=silent())
    recorded = "trainer.compile=reduce-overhead"
    distill(tiny(Path(teacher), fast.path, *settings, recorded), console=silent())
    torch.testing.assert_close(
        load_file(fast.student), load_file(plain.student), rtol=1e-3, atol=1e-4
    )
    assert_same_figures(fast, plain)
    counters = torch._dynamo.utils.counters
    print(counters["stats"]["unique_graphs"], len(counters["graph_break"]))


if __name__ == "__main__":
    main()
