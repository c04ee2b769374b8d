"""The pages of docs/ whose code is executed as it stands."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from tests.support.runs import as_users_call, silent, tiny, write_teacher

import rlkd
from rlkd.engine.run import distill
from rlkd.errors import UserError
from rlkd.reporting import Result
from rlkd.reporting.statistics.paired_test import paired_difference

ADDING = Path(__file__).parents[1] / "docs" / "adding.md"
PACKAGE = Path(__file__).parents[1] / "src" / "rlkd"
FILE = re.compile(r"^`(?P<path>\S+)`\n\n```(?:python|yaml)\n(?P<text>.*?)^```$", re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for found in FILE.finditer(ADDING.read_text(encoding="utf-8")):
        path = tmp_path / found["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found["text"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    with as_users_call():
        yield tmp_path
    for name in set(sys.modules) - known:
        if name.partition(".")[0] in ("mine", "test_cosine", "test_halved"):
            del sys.modules[name]


def test_the_page_has_three_files_for_a_loss_and_three_for_a_source(folder: Path) -> None:
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {
        "mine/cosine.py",
        "conf/method/cosine.yaml",
        "test_cosine.py",
        "mine/halved.py",
        "conf/temperature/halved.yaml",
        "test_halved.py",
    }


@pytest.mark.parametrize("name", ["test_cosine", "test_halved"])
def test_its_tests_pass(folder: Path, name: str) -> None:
    module = vars(importlib.import_module(name))
    tests = [each for key, each in module.items() if key.startswith("test_")]
    assert tests
    for each in tests:
        each()


def test_its_loss_and_its_source_train_a_student(folder: Path) -> None:
    teacher = write_teacher(folder / "teacher.pth")
    kept = [each for each in tiny(teacher, folder / "run") if not each.startswith("temperature")]
    own = [f"configs={folder / 'conf'}", "method=cosine", "temperature=halved"]
    with pytest.raises(UserError, match=r"_target_=mine\.\w+\.\w+ is code .* add trust=mine$"):
        distill([*kept, *own], console=silent())
    result = distill([*kept, *own, "trust=mine"], console=silent())
    assert (folder / "run" / "student.safetensors").is_file()
    assert 0 <= result.test.top1 <= 1
    assert "mine.cosine.Cosine" in (folder / "run" / "config.yaml").read_text()


NAME = re.compile(r"`(rlkd(?:\.\w+)+)`")


@pytest.mark.parametrize("page", sorted(path.name for path in ADDING.parent.glob("*.md")))
def test_every_name_of_the_code_exists(page: str) -> None:
    text = (ADDING.parent / page).read_text(encoding="utf-8")
    names = {each for each in NAME.findall(text) if "mine" not in each}
    assert names or page != "architecture.md"
    for name in sorted(names):
        assert get_object(name) is not None, name


PLACE = re.compile(r"`(\w+/[\w/]+\.py)(?::(\w+)[\w.]*)?`")


@pytest.mark.parametrize("page", sorted(path.name for path in ADDING.parent.glob("*.md")))
def test_every_file_that_is_named_exists(page: str) -> None:
    text = (ADDING.parent / page).read_text(encoding="utf-8")
    for place, name in PLACE.findall(text):
        if place.startswith(("mine", "test_", "benchmarks", "tests", "examples")):
            continue
        path = PACKAGE / place.removeprefix("src/rlkd/")
        assert path.is_file(), place
        assert not name or re.search(rf"^(class|def) {name}\b|^{name}\b", path.read_text(), re.M), (
            name
        )


def test_the_map_names_every_room() -> None:
    text = (ADDING.parent / "architecture.md").read_text(encoding="utf-8")
    tree = text[text.index("src/rlkd/") : text.index("```", text.index("src/rlkd/"))]
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms - {"configs"} <= set(re.findall(r"^  (\w+)/", tree, re.M))


README = ADDING.parents[1] / "README.md"


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/loops.md"])
def test_the_loop_that_is_shown_runs(page: str) -> None:
    text = (README.parent / page).read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    loader = [(torch.randn(8, 4), torch.arange(8) % 3)] * 2
    held: dict[str, Any] = {"rlkd": rlkd, "torch": torch, "F": torch.nn.functional}
    held["optimizer"] = torch.optim.SGD(student.parameters(), 0.1)
    before = student.weight.detach().clone()
    held |= {"loader": loader, "student": student, "teacher": teacher}
    exec(code, held)
    assert not torch.equal(student.weight, before)
    assert teacher.weight.grad is None
    assert held["T"].student.shape == (8,)


def answer() -> str:
    """Return what the README says the study found, on one line."""
    return " ".join(README.read_text(encoding="utf-8").split("## Does it help?")[1].split())


def in_the_study(arm: str, baseline: str, seeds: range) -> tuple[float, float, float]:
    """Return a difference of the study's kept runs and its interval, in percentage points."""
    kept = ADDING.parents[1] / "benchmarks" / "results" / "cifar100_small"
    one, other = (
        [
            Result.read(kept / f"arm={each},seed={seed}" / "result.json").test.headline
            for seed in seeds
        ]
        for each in (arm, baseline)
    )
    found = paired_difference(one, other, list(seeds))
    assert found.low is not None
    assert found.high is not None
    return 100 * found.value, 100 * found.low, 100 * found.high


def test_the_answer_of_the_readme_is_that_of_the_studys_runs() -> None:
    highest: list[float] = []
    shown = re.search(r"it is paid: (\S+), (\S+) and (\S+) points", answer())
    assert shown is not None
    for arm, said in zip(("rlkd_paper", "rlkd", "look_ahead"), shown.groups(), strict=True):
        value, low, high = in_the_study(arm, "constant_4", range(10))
        assert f"{value:+.2f}" == said
        assert low < 0 < high
        highest.append(high)
    assert max(highest) < 0.36
    assert "(+0.36 over CTKD) lies above all three 95 % intervals" in answer()


@pytest.mark.parametrize(
    ("arm", "baseline", "seeds", "said"),
    [
        ("", "standardised_2", range(5), "gained {} on tau = 2 ({} to {}, five seeds)"),
        ("", "standardised_2", range(5, 10), "fresh seeds {}, inside the noise ({} to {})"),
        ("_shuffled", "look_ahead_standardised", range(5, 10), "at random ({}, {} to {})"),
        ("_mean", "look_ahead_standardised", range(5, 10), "its mean for all ({})"),
        ("", "standardised_1.5", range(10), "above it by {} ({} to {})"),
    ],
)
def test_what_the_readme_says_of_standardised_logits_is_that_of_the_studys_runs(
    arm: str, baseline: str, seeds: range, said: str
) -> None:
    found = in_the_study(f"look_ahead_standardised{arm}", baseline, seeds)
    assert said.format(*(f"{each:+.2f}" for each in found)) in answer()


def test_what_the_readme_says_of_dkd_is_that_of_the_studys_runs() -> None:
    value, low, high = in_the_study("dkd_look_ahead", "dkd", range(5))
    assert f"no gain is to be seen ({value:+.2f}, {low:+.2f} to {high:+.2f})" in answer()
