from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from rlkd.reporting import ImageCounts, PolicyMap, Result, RunRecord, Scores

Arms = dict[str, list[RunRecord]]
SORTING = (files("rlkd.reporting") / "templates" / "sort.js").read_text(encoding="utf-8")
SHIFTS = {"p05": -2.0, "p25": -1.0, "p50": 0.0, "p75": 1.0, "p95": 2.0}


def fetches(page: str) -> list[str]:
    """What of a page would be fetched from elsewhere, or run, but for what sorts its tables."""
    page = page.replace(f"<script>{SORTING}</script>", "", 1)
    rest = page.replace('xmlns="http://www.w3.org/2000/svg"', "").replace("url(#", "")
    wrong = ("http://", "https://", "<script", "<link", "<img", "@import", "url(", "src=")
    return [each for each in wrong if each in rest]


@pytest.fixture
def make_result() -> Callable[..., Result]:
    def make(top1: float = 0.7, *, seed: int = 0, images_per_second: float = 1000.0) -> Result:
        return Result(
            test=Scores(top1, 0.9, 1.25),
            teacher=Scores(0.75, 0.95, 1.0),
            teacher_sha256="feed" * 16,
            images=ImageCounts(training=40, probe=8),
            epochs=3,
            seed=seed,
            images_per_second=images_per_second,
            wall_seconds=3725.0,
            hardware="one core; no GPU",
            versions={"python": "3.11.0", "torch": "2.9.0"},
            config_sha256="0123456789abcdef" * 4,
        )

    return make


@pytest.fixture
def policy() -> PolicyMap:
    """Two rows of the teacher's confidence, two columns of the student's; one bin is empty."""
    return PolicyMap([0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [[4.0, None], [2.0, 8.0]], [[3, 0], [1, 2]])


@pytest.fixture
def arms(make_result: Callable[..., Result], policy: PolicyMap) -> Arms:
    """A fixed temperature, and an agent that starts in the second of three epochs."""

    def run(label: str, seed: int, agent: bool) -> RunRecord:
        rows: list[dict[str, float]] = []
        for epoch in range(1, 4):
            learns = agent and epoch > 1
            wide = 1.0 if learns else 0.0
            rows.append(
                {"epoch": float(epoch), "test/top1": 0.2 * epoch + 0.01 * seed}
                | {f"temperature/{name}": 4.0 + shift * wide for name, shift in SHIFTS.items()}
            )
            if learns:
                rows[-1] |= {
                    "agent/reward": 0.01,
                    "agent/reward_even_std": 1e-5,
                    "agent/reward_calibrated_std": 3e-5 + 1e-6 * seed,
                    "agent/reward_calibrated_sum_error": 2e-9,
                }
        result = make_result(0.6 + 0.01 * seed, seed=seed)
        return RunRecord(Path("runs") / label / str(seed), result, rows, policy if agent else None)

    return {
        "kd": [run("kd", seed, agent=False) for seed in (0, 1)],
        "rlkd": [run("rlkd", seed, agent=True) for seed in (0, 1)],
    }
