from collections.abc import Mapping

import pytest

from rlkd.errors import UserError
from rlkd.reporting.statistics.comparison import Cell, compare_cells

Settings = dict[str, object]


def settings(temperature: str, seed: int, **changed: object) -> Settings:
    shared: Settings = {
        "seed": seed,
        "output": f"runs/{temperature}_{seed}",
        "trainer.epochs": 240,
        "student.name": "resnet20",
        "temperature._target_": f"rlkd.{temperature}",
        "temperature.seed": seed,
        "method.seed": seed,
        "chosen.temperature": temperature,
    }
    return shared | {key.replace("__", "."): value for key, value in changed.items()}


def cell(temperature: str, seed: int, config: Mapping[str, object] | None) -> Cell:
    return Cell({"temperature": temperature}, seed, config=config)


def pair(one: Settings, other: Settings) -> list[Cell]:
    return [cell("constant", 0, one), cell("ctkd", 0, other)]


def test_what_is_swept_and_the_seed_may_differ() -> None:
    cells = [cell(t, seed, settings(t, seed)) for t in ("constant", "ctkd") for seed in (0, 20)]
    assert compare_cells(cells).implied == ()


def test_runs_whose_settings_are_not_known_are_taken_as_they_are() -> None:
    cells = pair(settings("constant", 0), settings("ctkd", 0, trainer__epochs=40))
    assert len(compare_cells([cells[0], cell("ctkd", 0, None)]).rows) == 2


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (
            settings("constant", 0),
            settings("ctkd", 0, trainer__epochs=40, student__name="vgg8"),
            r"'temperature=constant seed=0' and 'temperature=ctkd seed=0' differ in "
            r"trainer.epochs \(240 and 40\)",
        ),
        (
            settings("constant", 0),
            settings("ctkd", 0, probe__size=256),
            r"probe.size \(absent and 256\)",
        ),
        (
            settings("constant", 0, temperatures__more=1),
            settings("ctkd", 0, temperatures__more=2),
            r"temperatures.more \(1 and 2\)",
        ),
        (
            settings("constant", 0, method__seed=7),
            settings("ctkd", 0),
            r"method.seed \(7 and 0\)",
        ),
    ],
)
def test_the_first_other_difference_is_named(one: Settings, other: Settings, told: str) -> None:
    with pytest.raises(UserError, match=told) as refused:
        compare_cells(pair(one, other))
    assert "\n" not in str(refused.value)


def test_what_a_choice_brings_along_is_allowed_where_the_caller_says_so_and_is_told() -> None:
    cells = pair(settings("constant", 0, probe__size=0), settings("ctkd", 0, probe__size=256))
    assert compare_cells(cells, implied=("probe",)).implied == ("probe.size",)
    with pytest.raises(UserError, match=r"probe.size \(0 and 256\)"):
        compare_cells(cells, implied=("pro",))


def test_the_seeds_of_a_combination_agree_in_what_is_swept_too() -> None:
    old = settings("ctkd", 1, temperature__maximum=20)
    cells = [cell("ctkd", 0, settings("ctkd", 0, temperature__maximum=10)), cell("ctkd", 1, old)]
    with pytest.raises(UserError, match=r"temperature.maximum \(10 and 20\)"):
        compare_cells(cells, implied=("temperature",))


def test_a_path_that_repeats_the_seed_is_no_difference() -> None:
    one = settings("ctkd", 2, teacher__checkpoint="runs/teacher_2/last", student__pool="MaxPool2d")
    other = settings(
        "ctkd", 11, teacher__checkpoint="runs/teacher_11/last", student__pool="MaxPool2d"
    )
    assert len(compare_cells([cell("ctkd", 2, one), cell("ctkd", 11, other)]).rows) == 1
    other["teacher.checkpoint"] = "runs/teacher_1/last"
    with pytest.raises(UserError, match=r"teacher.checkpoint \("):
        compare_cells([cell("ctkd", 2, one), cell("ctkd", 11, other)])
