"""The tables of the study of docs/study.md, from its kept runs: each family, once it is whole.

A family with runs missing is named with what it lacks, and none of its differences is computed. Nor
is any mean shown before the main family is whole: arms are counted.

    python benchmarks/study_tables.py benchmarks/results/cifar100_small --chosen benchmarks/results/cifar100_choose
"""  # noqa: E501

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

from rlkd.reporting import Result
from rlkd.reporting.statistics.paired_test import PairedDifference, holm, paired_difference
from rlkd.sweep.study import read_study

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
}
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
    parser.add_argument("--study", default="cifar100_small")
    arguments = parser.parse_args()
    study, scores = read_study(arguments.study), results(arguments.kept)
    names = {BEST: BEST, BEST_STANDARDISED: BEST_STANDARDISED}
    if arguments.chosen is not None:
        held = results(arguments.chosen)
        names = {BEST: chosen(held, "constant"), BEST_STANDARDISED: chosen(held, "standardised")}
    tables, whole = list[str](), dict[str, bool]()
    for family, contrasts in FAMILIES.items():
        named = [(names.get(one, one), names.get(other, other)) for one, other in contrasts]
        seeds = set.intersection(
            *(set(study.seeds_of(arm)) for pair in named for arm in pair if arm in study.arms)
        )
        absent = sorted(
            {
                f"{arm} seed {seed}"
                for pair in named
                for arm in pair
                for seed in seeds
                if seed not in scores.get(arm, {})
            }
        )
        found = f"Not whole, so nothing of it is computed: {len(absent)} runs are missing."
        whole[family] = not absent
        tables.append(f"\n### {family}\n")
        tables.append(found if absent else family_table(scores, named, sorted(seeds)))
    print(arms_table(scores, names[BEST] if whole["main"] else None), *tables, sep="\n")


def arms_table(scores: Scores, best: str | None) -> str:
    """Return how many runs each arm has; their figures too, if the best constant is given."""
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
    for arm, runs in scores.items():
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


def interval_words(gap: PairedDifference) -> str:
    """Return the interval of a difference in points; empty where there is none."""
    if gap.low is None or gap.high is None:
        return ""
    return f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f}"


def family_table(scores: Scores, contrasts: list[tuple[str, str]], seeds: list[int]) -> str:
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
