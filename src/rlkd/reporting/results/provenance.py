"""Where figures come from: machine, versions, seeds, and what to be wary of in comparing them."""

import math
from collections.abc import Mapping, Sequence

from rlkd.reporting.results.record import RunRecord
from rlkd.reporting.results.result import Result
from rlkd.reporting.results.scores import AnyScores

Arms = Mapping[str, Sequence[RunRecord]]


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def distinct(words: Sequence[str]) -> str:
    """Join words, each once, in the order first met."""
    return "; ".join(dict.fromkeys(words))


def results(arms: Arms) -> list[Result]:
    """Return the results of all runs, arm by arm."""
    return [run.result for runs in arms.values() for run in runs]


def epochs(arms: Arms) -> str:
    """Write how long the runs trained."""
    lengths = [result.epochs for result in results(arms)]
    low, high = min(lengths), max(lengths)
    return counted(high, "epoch") if low == high else f"{low:,} to {high:,} epochs"


def lead(arms: Arms) -> str:
    """Write the size of the comparison in one line."""
    runs = len(results(arms))
    each = " each" if runs > 1 else ""
    return f"{counted(len(arms), 'arm')}, {counted(runs, 'run')}, {epochs(arms)}{each}"


def origin(arms: Arms) -> list[tuple[str, str]]:
    """Return names and words: seeds, images, teacher, hardware, versions."""
    every = results(arms)
    seeds = {label: ", ".join(str(run.result.seed) for run in runs) for label, runs in arms.items()}
    counts = {len(runs) for runs in arms.values()}
    if len(set(seeds.values())) == 1 and len(counts) == 1:
        scope = " in each arm" if len(arms) > 1 else ""
        stated = f"{next(iter(seeds.values()))} (n = {counts.pop()}{scope})"
    else:
        stated = "; ".join(f"{a}: {seeds[a]} (n = {len(runs)})" for a, runs in arms.items())
    teachers = [_teacher(result.teacher) for result in every if result.teacher is not None]
    versions = [
        ", ".join(f"{name} {version}" for name, version in result.versions.items())
        for result in every
    ]
    return [
        ("Seeds", stated),
        ("Images", images(arms)),
        ("Teacher", distinct(teachers) or "none"),
        ("Hardware", distinct([result.hardware for result in every])),
        ("Versions", distinct(versions)),
    ]


def images(arms: Arms) -> str:
    """Write what the runs trained on: once where it is the same in all, else by arm."""
    found: dict[str, list[str]] = {}
    for label, runs in arms.items():
        for run in runs:
            found.setdefault(run.result.images.words, []).append(label)
    if len(found) == 1:
        return f"{next(iter(found))}{', in every arm' if len(arms) > 1 else ''}"
    return "; ".join(f"{distinct(labels)}: {words}" for words, labels in found.items())


def same_images(arms: Arms) -> bool:
    """Return whether all runs trained on as many images, with as many held out and mixed."""
    return len({result.images for result in results(arms)}) <= 1


def one_teacher(arms: Arms) -> bool:
    """Return whether all runs that had a teacher had one with the same weights."""
    return len({result.teacher_sha256 for result in results(arms)} - {None}) <= 1


def warnings(arms: Arms) -> list[str]:
    """Return what makes the arms less comparable than they look, one sentence each."""
    every = results(arms)
    found: list[str] = []
    alone = [label for label, runs in arms.items() if len(runs) == 1]
    if alone and len(arms) > 1:
        which = "Every arm has" if len(alone) == len(arms) else f"{', '.join(alone)}:"
        found.append(
            f"{which} one run only. Without a spread over seeds, no difference can be "
            "distinguished from noise."
        )
    if len({result.epochs for result in every}) > 1:
        found.append("The runs did not train for the same number of epochs.")
    if len({result.hardware for result in every}) > 1:
        found.append("The runs were made on different hardware: their speeds do not compare.")
    if len({tuple(sorted(result.versions.items())) for result in every}) > 1:
        found.append("The runs were made with different package versions.")
    if not same_images(arms):
        found.append(f"The arms did not train on the same images. {images(arms)}.")
    if not one_teacher(arms):
        found.append("The runs did not all learn from the same teacher.")
    return found


def _teacher(teacher: AnyScores) -> str:
    if not math.isfinite(teacher.headline):
        return "not scored"
    return f"{teacher.summary} on the test split"
