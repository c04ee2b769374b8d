"""The pictures of how well the student does over training, on the test split."""

import math
from collections.abc import Sequence

from rlkd.reporting.axes import epoch_axis, linear_axis
from rlkd.reporting.line_chart import Reference, Series, line_chart
from rlkd.reporting.pictures import GAP, HALF, WIDTH, Arms, Picture, arm_series, band_words
from rlkd.reporting.scores import Kind
from rlkd.reporting.series import over_seeds
from rlkd.reporting.svg import Drawing, beside, grid
from rlkd.reporting.words import percent, sentence

LEFT = 410.0
TAIL = 0.1
LEAST_TAIL = 4


def headline(arms: Arms, kind: Kind) -> Picture:
    """Plot the headline over epochs, all of them and the last ones closer.

    Args:
        arms: A label to the runs that share it.
        kind: The kind of scores that all runs have.
    """
    title = f"Test {kind.noun} over training"
    column = f"test/{kind.column}"
    found = {label: over_seeds(runs, column).scaled(100.0) for label, runs in arms.items()}
    shown = {label: line for label, line in found.items() if line.epoch}
    if not shown:
        return Picture(title, None, f"No run recorded test {kind.noun} over its epochs.")
    series = [arm_series(label, line, arms) for label, line in shown.items()]
    last = max(max(line.epoch) for line in shown.values())
    first = min(min(line.epoch) for line in shown.values())
    since = last - TAIL * (last - first)
    tails = {label: line.since(since) for label, line in shown.items()}
    sizes = [len(line.epoch) for line in tails.values()]
    close = min(sizes) > 0 and max(sizes) >= LEAST_TAIL
    teacher = _teacher(arms, kind.column)
    name = f"{kind.headline_words} on the test split, %"
    drawing = _chart(series, WIDTH, name, teacher)
    if close:
        ends = [arm_series(label, line, arms) for label, line in tails.items()]
        heading = f"From epoch {math.ceil(since):,}"
        whole = _chart(series, LEFT, name, teacher, title="All epochs", legend=False)
        nearer = _chart(ends, WIDTH - LEFT - GAP, name, None, title=heading)
        drawing = beside(whole, nearer, gap=GAP)
    caption = (
        f"{sentence(kind.noun)} on the test split{band_words(arms)}; nothing was selected on it, "
        "and the table takes the last epoch, not the best."
    )
    return Picture(title, drawing.svg(title), caption)


def others(arms: Arms, kind: Kind) -> list[Picture]:
    """Plot the figures of the kind that are drawn besides its headline, side by side.

    Args:
        arms: A label to the runs that share it.
        kind: The kind of scores that all runs have.

    Returns:
        One picture; none where the headline stands alone, or no run recorded the others.
    """
    drawings: list[Drawing] = []
    names: list[str] = []
    for column in kind.curves:
        found = {label: over_seeds(runs, f"test/{column}") for label, runs in arms.items()}
        series = [
            arm_series(label, line.scaled(100.0), arms)
            for label, line in found.items()
            if line.epoch
        ]
        if series:
            heading = kind.headings[column]
            names.append(heading.removesuffix(", %"))
            drawings.append(_chart(series, HALF, heading, _teacher(arms, column), height=280.0))
    if not drawings:
        return []
    title = f"Test {' and '.join(names)} over training"
    caption = f"On the test split{band_words(arms)}."
    return [Picture(title, grid(drawings, 2, gap=GAP).svg(title), caption)]


def _chart(
    series: Sequence[Series],
    width: float,
    name: str,
    teacher: Reference | None,
    *,
    title: str = "",
    legend: bool = True,
    height: float = 340.0,
) -> Drawing:
    bounds = [value for each in series for value in (*each.low, *each.high)]
    bounds += [teacher.value] if teacher else []
    return line_chart(
        series,
        width=width,
        height=height,
        x=epoch_axis([epoch for each in series for epoch in each.x]),
        y=linear_axis(bounds, name),
        title=title,
        reference=teacher,
        legend=legend,
    )


def _teacher(arms: Arms, column: str) -> Reference | None:
    """Return the teacher's figure, where all runs that had a teacher had the same one."""
    told = [run.result.teacher for runs in arms.values() for run in runs]
    levels = {teacher.figures()[column] for teacher in told if teacher is not None}
    if len(levels) != 1 or not math.isfinite(level := levels.pop()):
        return None
    return Reference(100 * level, f"teacher, {percent(level)} %")
