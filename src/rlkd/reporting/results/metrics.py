"""The record of a run over its epochs: metrics.csv, one row an epoch, empty where not known."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlkd.errors import UserError
from rlkd.reporting.escaping import csv_text
from rlkd.text_files import read_text, shown, write_text


def write_metrics(path: str | Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """Write the rows as CSV, whole or not at all.

    The columns are those of all rows, in the order in which they are first met. A row without a
    column, or with NaN in it, leaves the cell empty.

    Raises:
        UserError: The file cannot be written.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = ([_cell(row.get(column, math.nan)) for column in columns] for row in rows)
    write_text(path, csv_text([columns, *cells]))


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Read the rows of a metrics file; cells that are empty are left out of their row.

    Raises:
        UserError: The file is missing or no CSV, a row has too few or too many cells, or a cell
            holds no number.
    """
    text = read_text(path, "name the folder of a finished run")
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        columns = next(lines, [])
        if len({*columns}) < len(columns):
            raise UserError(f"{path}: its header names a column twice; name each once")
        return [_row(path, lines.line_num, columns, cells) for cells in lines]
    except csv.Error as error:
        raise UserError(
            f"{path}: line {lines.line_num} is no CSV ({error}); correct or remove the line"
        ) from None


def _row(path: str | Path, line: int, columns: list[str], cells: list[str]) -> dict[str, float]:
    if len(cells) != len(columns):
        raise UserError(
            f"{path}: line {line} has {len(cells)} cells, the header {len(columns)}; correct or "
            "remove the line"
        )
    return {
        name: _number(cell, f"{path}: line {line}, column {shown(name)}")
        for name, cell in zip(columns, cells, strict=True)
        if cell.strip()
    }


def _cell(value: float | int) -> str:
    value = float(value)
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _number(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise UserError(
            f"{where} holds {shown(cell)}, expected a number; correct the cell"
        ) from None
