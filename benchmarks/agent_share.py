"""What part of a training step the temperature source takes, timed inside the step itself.

R56 -> R20, batch 64, on the CPU. `overhead.py` compares two step times, which on a noisy machine
differ by more than the agent costs; this adds up the time within a step of choosing temperatures
(the learning of the agent included) and of measuring rewards, over whole intervals of learning and
probes, after 4 steps left out.

    python benchmarks/agent_share.py
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlkd.reporting import hardware, versions
from steps import Steps

OUT = Path("benchmarks/results/agent_share.json")
BFLOAT = ["trainer.precision=bf16-mixed", "trainer.channels_last=true"]
NO_WARMUP = "temperature.warmup_epochs=0"
VARIANTS = {
    "constant": (["temperature=constant"], 64),
    "random": (["temperature=random", NO_WARMUP], 64),
    "rlkd_paper": (["temperature=rlkd_paper", NO_WARMUP], 64),
    "rlkd": (["temperature=rlkd", NO_WARMUP], 144),
}
"""Overrides, and how many steps are timed."""


class Stopwatch:
    """Adds up the time of the calls that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call, timed."""

        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def main() -> None:
    rows = {}
    for name, (overrides, count) in VARIANTS.items():
        steps, watch = Steps([*overrides, *BFLOAT]), Stopwatch()
        steps(4)
        module = steps.distiller
        module._temperatures = watch.around(module._temperatures)
        module._measure = watch.around(module._measure)
        began = time.perf_counter()
        steps(count)
        whole = (time.perf_counter() - began) / count
        source = watch.seconds / count
        rows[name] = {"step_ms": 1e3 * whole, "source_ms": 1e3 * source, "share": source / whole}
        print(f"{name}: {1e3 * source:.2f} of {1e3 * whole:.0f} ms, {100 * source / whole:.1f} %")
    command = " ".join(["python benchmarks/agent_share.py", *sys.argv[1:]])
    report = {"command": command, "hardware": hardware(), "versions": versions(), "rows": rows}
    OUT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
