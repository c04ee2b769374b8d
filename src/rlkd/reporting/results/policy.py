"""The policy as a map: the mean temperature over teacher confidence and student confidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from rlkd.reporting.results.files import Count, read_fields, write_fields

Means = list[list[float | None]]


@dataclass(frozen=True, slots=True)
class PolicyMap:
    """Mean temperatures in bins of the two confidences; rows are bins of the teacher's.

    Raises:
        ValueError: The edges do not ascend, the grids are not as large as they say, or a count is
            negative.
    """

    teacher_confidence_edges: list[float]
    """Bounds of the k rows, k + 1 ascending values in [0, 1]."""
    student_confidence_edges: list[float]
    """Bounds of the m columns, m + 1 ascending values in [0, 1]."""
    mean_temperature: Means
    """k rows of m means; None where no instance fell."""
    count: list[list[Count]]
    """k rows of m numbers of instances."""

    def __post_init__(self) -> None:
        for edges in (self.teacher_confidence_edges, self.student_confidence_edges):
            if not all(low < high for low, high in pairwise(edges)):
                raise ValueError("the edges of bins must ascend")
        rows, columns = self.shape
        for name, grid in (("mean_temperature", self.mean_temperature), ("count", self.count)):
            widths = {len(row) for row in grid}
            if len(grid) != rows or widths != {columns}:
                raise ValueError(f"{name} must have {rows} rows of {columns} cells, as the edges")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (bins of the teacher's confidence) and columns (bins of the student's)."""
        return len(self.teacher_confidence_edges) - 1, len(self.student_confidence_edges) - 1

    def cell(self, row: int, column: int) -> float | None:
        """Return the mean temperature of a cell; None where no instance fell."""
        mean = self.mean_temperature[row][column]
        known = mean is not None and math.isfinite(mean) and self.count[row][column] > 0
        return mean if known else None

    def write(self, path: str | Path) -> None:
        """Write the map as JSON, whole or not at all.

        Raises:
            UserError: The file cannot be written.
        """
        rows, columns = self.shape
        cells = [[self.cell(row, column) for column in range(columns)] for row in range(rows)]
        write_fields(path, replace(self, mean_temperature=cells))

    @classmethod
    def read(cls, path: str | Path) -> "PolicyMap":
        """Read a map from a file.

        Raises:
            UserError: The file is missing, damaged, of another format, or no policy map.
        """
        return read_fields(cls, path, "name the folder of a run with a learning temperature")


def pool(maps: Sequence[PolicyMap]) -> PolicyMap:
    """Pool maps over runs: counts add up, means are weighted by them.

    Raises:
        ValueError: There is no map, or the maps have different bins.
    """
    if not maps:
        raise ValueError("there is no policy map to pool")
    first = maps[0]
    for other in maps[1:]:
        if (
            other.teacher_confidence_edges != first.teacher_confidence_edges
            or other.student_confidence_edges != first.student_confidence_edges
        ):
            raise ValueError("the policy maps have different bins")
    rows, columns = first.shape
    means: Means = []
    counts: list[list[int]] = []
    for row in range(rows):
        pooled = [_pool_cell(maps, row, column) for column in range(columns)]
        means.append([mean for mean, _ in pooled])
        counts.append([count for _, count in pooled])
    return PolicyMap(first.teacher_confidence_edges, first.student_confidence_edges, means, counts)


def _pool_cell(maps: Sequence[PolicyMap], row: int, column: int) -> tuple[float | None, int]:
    known = [(each.cell(row, column), each.count[row][column]) for each in maps]
    weighted = [(mean, count) for mean, count in known if mean is not None]
    total = sum(count for _, count in weighted)
    if total == 0:
        return None, 0
    return sum(mean * count for mean, count in weighted) / total, total
