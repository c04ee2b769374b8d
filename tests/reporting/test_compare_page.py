import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.reporting.conftest import fetches

from rlkd.errors import UserError
from rlkd.reporting import Result
from rlkd.reporting.pages import (
    comparison_csv,
    comparison_html,
    comparison_markdown,
    comparison_runs_csv,
    comparison_table,
    write_comparison,
)
from rlkd.reporting.statistics.comparison import Cell, Comparison, compare_cells
from rlkd.reporting.tables import caption, notes

MakeResult = Callable[..., Result]


@pytest.fixture
def cells(make_result: MakeResult) -> list[Cell]:
    """Differences of b: 0.02 and 0.04 (se 0.01, t 3); c has one run of two; d was not run."""
    tops = {"a": [0.70, 0.70], "b": [0.72, 0.74], "c|[red]": [0.65], "d": []}
    found = [
        Cell({"method": name}, seed, make_result(top1, seed=seed), folder=f"runs/{name}_{seed}")
        for name, values in tops.items()
        for seed, top1 in enumerate(values)
    ]
    found.append(Cell({"method": "c|[red]"}, 1, failure="the loss\nbecame <NaN>"))
    return [*found, Cell({"method": "d"}, 0), Cell({"method": "d"}, 1)]


@pytest.fixture
def comparison(cells: list[Cell]) -> Comparison:
    return compare_cells(cells)


def test_markdown_shows_points_and_verdicts(comparison: Comparison) -> None:
    # Half the interval is 0.01 tan(0.475 pi) = 0.1271; p = 1 - 2 atan(3) / pi = 0.205.
    assert comparison_markdown(comparison).splitlines()[:6] == [
        "| method | n | top-1, % | sd | difference | 95 % interval | p (Holm) | verdict | images/s "
        "| speed |",
        "| :-- | --: | --: | --: | --: | --: | --: | :-- | --: | --: |",
        "| a | 2 | 70.00 | 0.00 |  |  |  | baseline | 1,000 | 1.00 |",
        "| b | 2 | 73.00 | 1.41 | +3.00 | -9.71 to +15.71 | 0.205 | inside the noise | 1,000 "
        "| 1.00 |",
        "| c\\|[red] | 1 | 65.00 | n/a | -5.00 | n/a | n/a | no verdict, one shared seed; 1 of 2 "
        "failed | 1,000 | 1.00 |",
        "| d | 0 | n/a | n/a | n/a | n/a | n/a | not run | n/a | n/a |",
    ]


def test_the_caption_says_what_could_have_been_seen(comparison: Comparison) -> None:
    told = caption(comparison)
    for words in ("last epoch", "test split", "n = 1 to 2", "method=a", "1 test (Holm)",
                  "With 2 shared seeds only large effects",
                  "12.71 points (half an interval)."):  # fmt: skip
        assert words in told


def test_the_caption_counts_the_correction(make_result: MakeResult) -> None:
    tops = {"a": [0.70, 0.70], "b": [0.72, 0.74], "c": [0.70, 0.72]}
    found = [
        Cell({"method": name}, seed, make_result(top1, seed=seed))
        for name, values in tops.items()
        for seed, top1 in enumerate(values)
    ]
    # One degree of freedom: tan(0.4875 pi) / tan(0.475 pi) = 25.45 / 12.71 = 2.003.
    assert "2 tests (Holm)" in caption(compare_cells(found))
    assert "up to 2.0 times that" in caption(compare_cells(found))


def test_the_caption_admits_that_nothing_was_tested(make_result: MakeResult) -> None:
    found = [Cell({"method": name}, 0, make_result(seed=0)) for name in ("a", "b")]
    assert "no interval, no test and no verdict" in caption(compare_cells(found))


def test_the_caption_names_a_baseline_of_each_method(make_result: MakeResult) -> None:
    found = [
        Cell({"method": method, "temperature": temperature}, 0, make_result(seed=0))
        for method in ("kd", "dkd")
        for temperature in ("constant", "ctkd")
    ]
    told = caption(compare_cells(found, {"temperature": "constant"}))
    assert "to temperature=constant of the same method" in told


def test_notes_name_what_is_missing_and_what_differs(
    cells: list[Cell], comparison: Comparison, make_result: MakeResult
) -> None:
    told = notes(comparison)
    assert "method=c|[red] seed=1 failed: the loss became <NaN>." in told
    assert "Not run: method=d seed=0; method=d seed=1." in told
    elsewhere = replace(make_result(0.7, seed=0), hardware="a GPU")
    cells[0] = replace(cells[0], result=elsewhere, config={"probe.size": 0})
    cells[2] = replace(cells[2], config={"probe.size": 256})
    told = notes(compare_cells(cells, implied=("probe",)))
    assert any("because a choice brings its own: probe.size (0, 256)." in each for each in told)
    assert any("different hardware" in each for each in told)


def test_a_long_list_of_runs_to_make_is_cut() -> None:
    found = [Cell({"method": "kd"}, seed) for seed in range(8)]
    assert notes(compare_cells(found)) == [
        f"Not run: {'; '.join(f'method=kd seed={seed}' for seed in range(6))}; and 2 more."
    ]


def test_the_terminal_shows_the_same_cells(comparison: Comparison) -> None:
    console = Console(file=io.StringIO(), width=140)
    console.print(comparison_table(comparison, title="Methods [bold]"))
    assert isinstance(console.file, io.StringIO)
    told = console.file.getvalue()
    for words in ("Methods [bold]", "c|[red]", "73.00", "-9.71 to +15.71", "inside the noise",
                  "not run", "last epoch", "became <NaN>"):  # fmt: skip
        assert words in told


def test_a_narrow_terminal_spares_columns_and_breaks_no_word(comparison: Comparison) -> None:
    console = Console(file=io.StringIO(), width=72)
    console.print(comparison_table(comparison))
    assert isinstance(console.file, io.StringIO)
    header, *rest = (" ".join(line.split()) for line in console.file.getvalue().splitlines())
    assert header == "method top-1, % difference 95 % interval verdict"
    assert "b 73.00 +3.00 -9.71 to +15.71 inside the noise" in rest
    assert "too narrow for n, sd, p (Holm), images/s, speed." in " ".join(rest)


def test_runs_with_a_store_are_warned_of_for_their_speed(cells: list[Cell]) -> None:
    stored = [replace(cell, config={"teacher.cache": "store"}) for cell in cells]
    assert any("with teacher.cache the first run" in each for each in notes(compare_cells(stored)))
    without = [replace(cell, config={"teacher.cache": None}) for cell in cells]
    assert not any("teacher.cache" in each for each in notes(compare_cells(without)))


def test_runs_of_one_combination_at_very_different_speeds_are_warned_of(
    cells: list[Cell], make_result: MakeResult
) -> None:
    assert not any("Speeds" in each for each in notes(compare_cells(cells)))
    slow = replace(make_result(0.7, seed=0), images_per_second=500.0)
    (told,) = [
        each
        for each in notes(compare_cells([replace(cells[0], result=slow), *cells[1:]]))
        if "Speeds" in each
    ]
    assert told.startswith("Speeds say little: the runs of a had 500 to 1,000 images/s")


def test_csv_keeps_every_figure_and_leaves_the_unknown_empty(comparison: Comparison) -> None:
    base, other, one, absent = csv.DictReader(io.StringIO(comparison_csv(comparison)))
    assert float(other["top1_mean"]) == pytest.approx(0.73, rel=1e-12)
    assert float(other["difference"]) == pytest.approx(0.03, rel=1e-9)
    assert other["p"] == other["p_corrected"]
    assert (other["n"], other["planned"], other["shared_seeds"]) == ("2", "2", "2")
    assert (base["difference"], base["verdict"], base["relative_speed"]) == ("", "baseline", "1.0")
    assert (one["interval_low"], one["top1_std"], one["planned"]) == ("", "", "2")
    assert (absent["top1_mean"], absent["verdict"]) == ("", "not run")


def test_every_run_has_its_line(comparison: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(comparison_runs_csv(comparison))))
    assert [(line["method"], line["seed"], line["state"]) for line in lines] == [
        ("a", "0", "done"),
        ("a", "1", "done"),
        ("b", "0", "done"),
        ("b", "1", "done"),
        ("c|[red]", "0", "done"),
        ("c|[red]", "1", "failed: the loss became <NaN>"),
        ("d", "0", "not run"),
        ("d", "1", "not run"),
    ]
    assert (lines[3]["top1"], lines[3]["epochs"], lines[3]["folder"]) == ("0.74", "3", "runs/b_1")
    assert (lines[5]["top1"], lines[5]["epochs"]) == ("", "")


def picture(page: str) -> ElementTree.Element:
    (svg,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    return ElementTree.fromstring(svg)


def test_the_page_opens_offline_and_shows_every_seed(comparison: Comparison) -> None:
    page = comparison_html(comparison, title="A <b>", command="rlkd compare a<b")
    assert fetches(page) == []
    for words in ("A &lt;b&gt;", "rlkd compare a&lt;b", "4 combinations, 5 of 8 runs, 3 epochs",
                  "became &lt;NaN&gt;", "one core; no GPU", "inside the noise"):  # fmt: skip
        assert words in page
    drawn = picture(page)
    told = [each.text for each in drawn.iter() if each.tag.endswith("title")]
    assert "method=b seed=1: 74.00 %" in told
    assert sum(text.endswith(" %") for text in told if text) == 5
    assert "not run" in [each.text for each in drawn.iter() if each.tag.endswith("text")]


def test_a_page_before_any_run_says_so() -> None:
    page = comparison_html(compare_cells([Cell({"method": "kd"}, 0)]), title="t")
    assert "1 combination, no run has finished yet" in page
    assert "<svg" not in page


def test_a_diverged_run_leaves_no_nan_behind(cells: list[Cell], make_result: MakeResult) -> None:
    cells[3] = replace(cells[3], result=make_result(float("nan"), seed=1))
    comparison = compare_cells(cells)
    page = comparison_html(comparison, title="t")
    written = page + comparison_csv(comparison) + comparison_runs_csv(comparison)
    assert not re.search(r"\b(nan|inf)\b", written.replace("&lt;NaN&gt;", "").replace("<NaN>", ""))
    assert "failed: the run diverged" in written


def test_the_four_files_are_written_and_folders_told_from_the_page(
    tmp_path: Path, cells: list[Cell]
) -> None:
    folder = tmp_path / "compare"
    cells[0] = replace(cells[0], folder=str(tmp_path / "runs" / "a_0"))
    paths = write_comparison(folder, compare_cells(cells), title="Methods", command="rlkd compare")
    assert [path.name for path in paths] == [
        "compare.md",
        "compare.csv",
        "runs.csv",
        "compare.html",
    ]
    assert paths[0].read_text().startswith("# Methods\n\n`rlkd compare`\n\n| method |")
    assert "../runs/a_0" in paths[3].read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_comparison(tmp_path / "file", compare_cells(cells), title="Methods")
