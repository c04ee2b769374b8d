"""How well a network does: the figures of each kind of task, under one face."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from rlkd.errors import UserError
from rlkd.reporting.results.files import Fraction

UNKNOWN = "n/a"
_HARDEST = 3


def percent(fraction: float) -> str:
    """Write a fraction in per cent, two decimals."""
    return f"{100 * fraction:.2f}" if math.isfinite(fraction) else UNKNOWN


def sentence(words: str) -> str:
    """Begin words with a capital letter; all other letters stay as they are."""
    return words[:1].upper() + words[1:]


class SplitScores(ABC):
    """What tables, curves and comparisons need of the scores of a network on one split."""

    __slots__ = ()

    headings: ClassVar[Mapping[str, str]]
    """Column to its heading in a table, with its unit; all figures, the headline first."""
    column: ClassVar[str]
    """The headline's column."""
    headline_name: ClassVar[str]
    """The headline in a table."""
    headline_words: ClassVar[str]
    """The headline in a sentence, in full."""
    noun: ClassVar[str]
    """The headline in a sentence, in short."""
    curves: ClassVar[tuple[str, ...]]
    """Columns that are drawn over the epochs besides the headline."""

    @property
    def headline(self) -> float:
        """The one figure by which runs are compared, a fraction; higher is better."""
        return self.figures()[self.column]

    def figures(self) -> dict[str, float]:
        """Return column to figure, in the order of `headings`."""
        return {column: getattr(self, column) for column in self.headings}

    def by_class(self) -> dict[str, float]:
        """Return the headline of each class, by the class's name; empty where it is not known."""
        return {}

    @property
    def hardest(self) -> str:
        """The classes with the lowest headlines in a line, the lowest first; empty if not known."""
        known = {name: of for name, of in self.by_class().items() if math.isfinite(of)}
        lowest = sorted(known, key=lambda name: known[name])[:_HARDEST]
        return ", ".join(f"{name} {percent(known[name])} %" for name in lowest)

    @classmethod
    @abstractmethod
    def words(cls, figures: Mapping[str, float]) -> dict[str, str]:
        """Put figures of this kind in words: heading to cell."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The figures that tell one network from another, in a line."""


@dataclass(frozen=True, slots=True)
class Scores(SplitScores):
    """How well a network classifies one split."""

    headings: ClassVar[Mapping[str, str]] = {
        "top1": "top-1, %",
        "top5": "top-5, %",
        "loss": "loss",
    }
    column: ClassVar[str] = "top1"
    headline_name: ClassVar[str] = "top-1"
    headline_words: ClassVar[str] = "top-1 accuracy"
    noun: ClassVar[str] = "accuracy"
    curves: ClassVar[tuple[str, ...]] = ()

    top1: Fraction
    """Accuracy, a fraction in [0, 1]."""
    top5: Fraction
    """Share of instances whose class is among the five likeliest; NaN with up to five classes."""
    loss: float
    """Mean cross-entropy, nats."""
    per_class: dict[str, Fraction] = field(default_factory=dict[str, float])
    """The class's name to its accuracy, in the order of the labels; NaN where it has no image."""

    def by_class(self) -> dict[str, float]:
        """Return the accuracy of each class, by the class's name."""
        return self.per_class

    @classmethod
    def words(cls, figures: Mapping[str, float]) -> dict[str, str]:
        """Put figures in words: accuracies in per cent, the loss in nats."""
        top1, top5, loss = (figures[column] for column in cls.headings)
        shown = f"{loss:.4f}" if math.isfinite(loss) else UNKNOWN
        return dict(zip(cls.headings.values(), (percent(top1), percent(top5), shown), strict=True))

    @property
    def summary(self) -> str:
        """Both accuracies, or the one that there is."""
        five = f", top-5 {percent(self.top5)} %" if math.isfinite(self.top5) else ""
        return f"top-1 {percent(self.top1)} %{five}"


@dataclass(frozen=True, slots=True)
class DetectionScores(SplitScores):
    """How well a network detects objects in one split: COCO's average precisions.

    An average precision (AP) is the area under the curve of precision over recall, read at 101
    recalls and averaged over classes; the 100 surest boxes of an image and class count. A found box
    counts as right where its intersection over union (IoU) with a true one reaches a bound. All are
    fractions in [0, 1]; NaN where the split has no object to find, and null in JSON.

    Source: COCO detection evaluation, https://cocodataset.org/#detection-eval; the names of the
    first six of the twelve figures of pycocotools' `COCOeval.summarize`.
    """

    headings: ClassVar[Mapping[str, str]] = {
        "ap": "AP, %",
        "ap50": "AP50, %",
        "ap75": "AP75, %",
        "ap_small": "AP small, %",
        "ap_medium": "AP medium, %",
        "ap_large": "AP large, %",
    }
    column: ClassVar[str] = "ap"
    headline_name: ClassVar[str] = "AP"
    headline_words: ClassVar[str] = "AP over IoU 0.50 to 0.95"
    noun: ClassVar[str] = "AP"
    curves: ClassVar[tuple[str, ...]] = ("ap50", "ap75")

    ap: Fraction
    """AP averaged over the IoU bounds 0.50, 0.55, ..., 0.95."""
    ap50: Fraction
    """AP at IoU 0.50."""
    ap75: Fraction
    """AP at IoU 0.75."""
    ap_small: Fraction
    """`ap` of objects of less than 32^2 pixels in area."""
    ap_medium: Fraction
    """`ap` of objects of 32^2 to 96^2 pixels in area."""
    ap_large: Fraction
    """`ap` of objects of more than 96^2 pixels in area."""
    per_class: dict[str, Fraction] = field(default_factory=dict[str, float])
    """The class's name to its `ap`, in the order of the labels; without the background."""

    def by_class(self) -> dict[str, float]:
        """Return the AP of each class, by the class's name."""
        return self.per_class

    @classmethod
    def words(cls, figures: Mapping[str, float]) -> dict[str, str]:
        """Put figures in words: all in per cent."""
        return {heading: percent(figures[column]) for column, heading in cls.headings.items()}

    @property
    def summary(self) -> str:
        """AP, and AP at the two single bounds."""
        shown = {"AP": self.ap, "AP50": self.ap50, "AP75": self.ap75}
        return ", ".join(f"{name} {percent(value)} %" for name, value in shown.items())


AnyScores = Scores | DetectionScores
Kind = type[Scores] | type[DetectionScores]
KINDS: tuple[Kind, ...] = (Scores, DetectionScores)


def kind_of(named: Iterable[tuple[str, AnyScores]]) -> Kind:
    """Return the kind that all scores share; that of classification where there are none.

    Args:
        named: What the scores are called in an error, and the scores.

    Raises:
        UserError: They are of two kinds.
    """
    first: tuple[str, AnyScores] | None = None
    for name, scores in named:
        first = first or (name, scores)
        if type(scores) is not type(first[1]):
            raise UserError(
                f"{first[0]!r} is scored by {first[1].headline_name} and {name!r} by "
                f"{scores.headline_name}, which do not compare; name runs of one kind"
            )
    return KINDS[0] if first is None else type(first[1])
