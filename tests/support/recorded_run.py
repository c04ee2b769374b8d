"""A run whose step is compiled as for CUDA graphs, beside the plain one: prints `GRAPHS BREAKS`.

    python -m tests.support.recorded_run TEACHER FOLDER BACKEND

Raises where both differ by more than rounding, in weights or in figures.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.support.runs import metrics_but_time, silent, tiny

from rlkd.engine import compile as compiling
from rlkd.engine.run import distill
from rlkd.engine.run_folder import RunFolder


def main() -> None:
    teacher, output, backend = sys.argv[1:]
    plain, fast = (RunFolder(Path(output) / name) for name in ("plain", "fast"))
    settings = ("temperature=standardised", "method=dkd", "trainer.epochs=2")
    named: Any = vars(compiling)
    named["_BACKEND"] = backend
    distill(tiny(Path(teacher), plain.path, *settings), console=silent())
    recorded = "trainer.compile=reduce-overhead"
    distill(tiny(Path(teacher), fast.path, *settings, recorded), console=silent())
    torch.testing.assert_close(
        load_file(fast.student), load_file(plain.student), rtol=1e-3, atol=1e-4
    )
    for ours, theirs in zip(
        *(metrics_but_time(each.metrics) for each in (fast, plain)), strict=True
    ):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert abs(float(ours[name]) - float(value)) <= 1e-3 * abs(float(value)) + 1e-4, name
    counters = torch._dynamo.utils.counters
    print(counters["stats"]["unique_graphs"], len(counters["graph_break"]))


if __name__ == "__main__":
    main()
