"""The tables of the study of docs/study.md, from its kept runs: each family, once it is whole.

A family with runs missing is named with what it lacks, and none of its differences is computed; its
arms are counted, and no mean of them is shown. Nor is any before the main family is whole.

    python benchmarks/study_tables.py benchmarks/results/cifar100_small --chosen benchmarks/results/cifar100_choose
"""  # noqa: E501

import argparse
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from rlkd.reporting import PolicyMap, Result
from rlkd.reporting.results.metrics import read_metrics
from rlkd.reporting.results.policy import pool
from rlkd.reporting.statistics.paired_test import PairedDifference, holm, paired_difference

BEST, BEST_STANDARDISED = "the best constant", "the best standardised constant"
PUBLISHED = {"constant": 4.0, "standardised": 2.0}
TOLD_APART = 0.003
"""Constants that differ by less on the validation images are not told apart."""
FAMILIES: dict[str, list[tuple[str, str]]] = {
    "main": [("rlkd_paper", BEST), ("rlkd", BEST), ("look_ahead", BEST)],
    "instance": [
        ("look_ahead", "look_ahead_shuffled"),
        ("look_ahead_shuffled", "look_ahead_mean"),
        ("look_ahead_mean", BEST),
    ],
    "standardised": [("look_ahead_standardised", BEST_STANDARDISED)],
    "DKD": [("dkd_look_ahead", "dkd")],
    "standardised again": [
        ("look_ahead_standardised", BEST_STANDARDISED),
        ("look_ahead_standardised", "look_ahead_standardised_shuffled"),
        ("look_ahead_standardised_shuffled", "look_ahead_standardised_mean"),
        ("look_ahead_standardised_mean", BEST_STANDARDISED),
    ],
}
SEEDS: dict[str, Sequence[int]] = {
    "main": range(10),
    "instance": range(10),
    "standardised": range(5),
    "DKD": range(5),
    "standardised again": range(5, 10),
}
"""Of each family, as the protocol has them."""
EPOCHS = (1, 4, 8, 9, 12)
"""Those in which temperatures are shown; the learning rate falls after 8, 9 and 10."""
ROLES = ("teacher's confidence", "student's confidence")
THIRDS = {"below 0.3": (0.0, 0.25), "0.3 to 0.7": (0.25, 0.65), "above 0.7": (0.65, 1.0)}
"""Of a confidence; the bins whose lower edge lies in the range."""
AGENTS = ("rlkd_paper", "rlkd", "look_ahead", "look_ahead_shuffled", "look_ahead_mean")
OVER_STANDARDISED = tuple(f"look_ahead_standardised{each}" for each in ("", "_shuffled", "_mean"))
"""Those whose temperatures multiply each network's own deviation: tau."""
GAIN = 0.003
"""The least mean difference that counts as a gain, a fraction."""
Scores = Mapping[str, Mapping[int, Result]]


def results(folder: Path) -> Scores:
    """Return the result of each arm and seed of a study's folder."""
    found: dict[str, dict[int, Result]] = {}
    for path in sorted(folder.glob("*/result.json")):
        labels = dict(each.partition("=")[::2] for each in path.parent.name.split(","))
        found.setdefault(labels["arm"], {})[int(labels["seed"])] = Result.read(path)
    return found


def chosen(scores: Scores, kind: str) -> str:
    """Return the best constant on validation images; of equals, that nearest the published."""
    means = {
        arm: statistics.fmean(each.validation.headline for each in runs.values() if each.validation)
        for arm, runs in scores.items()
        if arm.startswith(f"{kind}_")
    }
    equal = [arm for arm, mean in means.items() if mean >= max(means.values()) - TOLD_APART]
    return min(equal, key=lambda arm: abs(float(arm.rpartition("_")[2]) - PUBLISHED[kind]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path)
    parser.add_argument("--chosen", type=Path, help="kept runs of cifar100_choose")
    arguments = parser.parse_args()
    scores = results(arguments.kept)
    names = {BEST: BEST, BEST_STANDARDISED: BEST_STANDARDISED}
    if arguments.chosen is not None:
        held = results(arguments.chosen)
        names = {BEST: chosen(held, "constant"), BEST_STANDARDISED: chosen(held, "standardised")}
    tables, whole, runs_of = list[str](), dict[str, bool](), dict[str, set[tuple[str, int]]]()
    for family, contrasts in FAMILIES.items():
        named = [(names.get(one, one), names.get(other, other)) for one, other in contrasts]
        runs = {(arm, seed) for pair in named for arm in pair for seed in SEEDS[family]}
        absent = [(arm, seed) for arm, seed in runs if seed not in scores.get(arm, {})]
        found = f"Not whole, so nothing of it is computed: {len(absent)} runs are missing."
        whole[family] = not absent
        runs_of[family] = runs
        tables.append(f"\n### {family}\n")
        tables.append(found if absent else family_table(scores, named, SEEDS[family]))
    shown = set().union(*(runs for family, runs in runs_of.items() if whole[family]))
    hidden = set().union(*runs_of.values()) - shown
    print(arms_table(scores, names[BEST] if whole["main"] else None, hidden), *tables, sep="\n")
    agents = AGENTS if whole["main"] and whole["instance"] else ()
    if whole["standardised"] and whole["standardised again"]:
        agents += OVER_STANDARDISED
    if agents:
        print("\n### Temperatures, or tau: mean (5th to 95th percentile)\n")
        print(temperatures_table(arguments.kept, agents))
        print("\n### Mean temperature, or tau, by state, last epoch\n")
        print(states_table(arguments.kept, agents))


def arms_table(scores: Scores, best: str | None, hidden: Collection[tuple[str, int]] = ()) -> str:
    """Return how many runs each arm has; their figures too, if the best constant is given.

    Those in `hidden`, arms and seeds of families that are not whole, are left out of figures, and
    an arm of which no others are left is counted alone.
    """
    if best is None:
        return "\n".join(
            [
                "| arm | n |",
                "|---|---|",
                *(f"| {arm} | {len(runs)} |" for arm, runs in scores.items()),
            ]
        )
    lines = [
        f"| arm | n | top-1, % | sd | less {best} | 95 % interval, uncorrected | images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, held in scores.items():
        runs = {seed: each for seed, each in held.items() if (arm, seed) not in hidden}
        if not runs:
            lines.append(f"| {arm} | {len(held)} | | | | | |")
            continue
        values = [100 * each.test.headline for each in runs.values()]
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        speed = statistics.median(each.images_per_second for each in runs.values())
        words = ""
        shared = sorted(runs.keys() & scores[best].keys())
        if arm != best and shared:
            pair = ([scores[each][seed].test.headline for seed in shared] for each in (arm, best))
            gap = paired_difference(*pair, shared)
            words = f"{100 * gap.value:+.2f} | {interval_words(gap)}"
        lines.append(
            f"| {arm} | {len(values)} | {statistics.fmean(values):.2f} | {spread} | "
            f"{words or ' | '} | {speed:.0f} |"
        )
    return "\n".join(lines)


def temperatures_table(kept: Path, arms: Sequence[str]) -> str:
    """Return what each arm's temperatures were in some epochs, means over its seeds."""
    lines = [
        f"| arm | n | {' | '.join(f'epoch {epoch}' for epoch in EPOCHS)} |",
        f"|---|---|{'---|' * len(EPOCHS)}",
    ]
    for arm in arms:
        runs = [read_metrics(path) for path in sorted(kept.glob(f"arm={arm},seed=*/metrics.csv"))]
        words = []
        for epoch in EPOCHS:
            rows = [run[epoch - 1] for run in runs]
            mean, low, high = (
                statistics.fmean(row[f"temperature/{name}"] for row in rows)
                for name in ("mean", "p05", "p95")
            )
            words.append(f"{mean:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {arm} | {len(runs)} | {' | '.join(words)} |")
    return "\n".join(lines)


def states_table(kept: Path, arms: Sequence[str]) -> str:
    """Return each arm's mean temperature by state in the last epoch, all seeds pooled."""
    lines = [
        f"| arm | {' | '.join(f'{name} {words}' for name in ROLES for words in THIRDS)} |",
        f"|---|{'---|' * len(ROLES) * len(THIRDS)}",
    ]
    for arm in arms:
        paths = sorted(kept.glob(f"arm={arm},seed=*/policy.json"))
        pooled = pool([PolicyMap.read(path) for path in paths])
        count = np.array(pooled.count, dtype=float)
        mean = np.nan_to_num(np.array(pooled.mean_temperature, dtype=float))
        words = []
        for axis in range(len(ROLES)):
            edges = (pooled.teacher_confidence_edges, pooled.student_confidence_edges)[axis]
            for low, high in THIRDS.values():
                bins = [low <= each < high for each in edges[:-1]]
                held = np.compress(bins, count, axis), np.compress(bins, count * mean, axis)
                total, weighted = (each.sum() for each in held)
                words.append(f"{weighted / total:.2f}" if total else "")
        lines.append(f"| {arm} | {' | '.join(words)} |")
    return "\n".join(lines)


def interval_words(gap: PairedDifference) -> str:
    """Return the interval of a difference in points; empty where there is none."""
    if gap.low is None or gap.high is None:
        return ""
    return f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f}"


def family_table(scores: Scores, contrasts: list[tuple[str, str]], seeds: Sequence[int]) -> str:
    """Return each contrast with its interval, p corrected within the family, and verdict."""
    gaps = []
    for pair in contrasts:
        one, other = ([scores[arm][seed].test.headline for seed in seeds] for arm in pair)
        gaps.append(paired_difference(one, other, seeds))
    corrected = holm([1.0 if gap.p is None else gap.p for gap in gaps])
    lines = [
        "| contrast | n | difference | 95 % interval | p (Holm) | |",
        "|---|---|---|---|---|---|",
    ]
    for (one, other), gap, p in zip(contrasts, gaps, corrected, strict=True):
        words = "inside the noise"
        if p < 0.05:
            words = "a gain" if gap.value >= GAIN else "a loss" if gap.value <= -GAIN else "small"
        lines.append(
            f"| {one} less {other} | {gap.n} | {100 * gap.value:+.2f} | {interval_words(gap)} | "
            f"{p:.3f} | {words} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
