"""The house of DESIGN: floors, circles, sizes, and what a training step must not do."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object

import rlkd
from rlkd.config.compose import options

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "rlkd"
CONFIGS = PACKAGE / "configs"

FLOORS = {
    **dict.fromkeys(
        (
            "types",
            "errors",
            "arguments",
            "atomic",
            "checks",
            "distributed",
            "regular_files",
            "text_files",
            "reporting",
            "trust",
        ),
        1,
    ),
    **dict.fromkeys(("temperature", "losses", "exploration", "models", "data"), 2),
    "agent": 3,
    "config": 4,
    "engine": 5,
    "lightning_callback": 6,
    "teacher_cache": 6,
    "export": 6,
    "tasks": 7,
    "sweep": 7,
    "commands": 8,
    "cli": 9,
    "__main__": 10,
}
STEP_ROOMS = ("agent", "losses", "temperature", "exploration")
MAX_LINES = 450

Imports = dict[str, set[str]]


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, package: Path, known: set[str]) -> Iterator[str]:
    """Yield the package's own modules that a file imports, at its top or anywhere in it."""
    name, top = module_name(path, package), package.name
    parent = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.split(".")[0] == top)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = parent.split(".")[: len(parent.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            if base.split(".")[0] != top:
                continue
            for each in node.names:
                inner = f"{base}.{each.name}"
                yield inner if inner in known else base


def import_graph(package: Path) -> Imports:
    paths = {module_name(path, package): path for path in package.rglob("*.py")}
    return {
        name: {other for other in imported(path, package, set(paths)) if other in paths} - {name}
        for name, path in paths.items()
    }


def circle(graph: Imports) -> list[str] | None:
    """Return the modules of a circle, if there is one."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str] | None:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return None
        for other in sorted(graph[name]):
            found = walk(other, [*trail, name])
            if found:
                return found
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := walk(name, []))), None)


def upward(graph: Imports, floors: dict[str, int]) -> list[str]:
    """Return the imports that do not go down, as `importer -> imported`."""

    def room(name: str) -> str:
        return name.split(".")[1] if "." in name else ""

    return [
        f"{name} -> {other}"
        for name, others in sorted(graph.items())
        for other in sorted(others)
        # The front door, rlkd/__init__.py, stands before all floors; nobody imports it.
        if room(name)
        and room(name) != room(other)
        and not (
            floors[room(name)] > floors.get(room(other), 99)
            or floors[room(name)] == floors.get(room(other)) == 1
        )
    ]


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_there_is_no_circle_of_imports() -> None:
    assert circle(import_graph(PACKAGE)) is None


def test_nothing_imports_upwards() -> None:
    assert upward(import_graph(PACKAGE), FLOORS) == []


def test_every_room_stands_on_a_floor() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {room for room in rooms if not room.startswith("__")} - {"configs"} <= FLOORS.keys()


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
def test_no_file_is_longer_than_450_lines(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in python_files(folder)}
    assert {str(path): n for path, n in lengths.items() if n > MAX_LINES} == {}


def waits(source: str) -> list[str]:
    """Return what in a source would wait for a device or leave torch."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(
            a.name.split(".")[0] == "numpy" for a in node.names
        ):
            found.append("import numpy")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpy":
            found.append("import numpy")
        if isinstance(node, ast.Attribute) and node.attr in ("item", "cpu", "numpy", "tolist"):
            found.append(f".{node.attr}")
    return found


@pytest.mark.parametrize("room", STEP_ROOMS)
def test_no_training_step_waits_for_the_device(room: str) -> None:
    paths = python_files(f"src/rlkd/{room}")
    assert paths
    assert {path.name: waits(path.read_text()) for path in paths if waits(path.read_text())} == {}


def loose(source: str) -> list[str]:
    """Return the tolerances of a test that let anything pass."""
    return [
        f"{keyword.arg}={keyword.value.value} in line {node.lineno}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in ("rtol", "rel")
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, int | float)
        and keyword.value.value >= 1
    ]


def test_every_test_can_fail() -> None:
    paths = python_files("tests")
    assert {str(path): loose(path.read_text()) for path in paths if loose(path.read_text())} == {}


def test_no_test_expects_an_outcome_that_always_holds() -> None:
    always = re.compile(r"^\s*assert True\b", re.MULTILINE)
    assert [str(path) for path in python_files("tests") if always.search(path.read_text())] == []


def house(folder: Path, **files: str) -> Imports:
    package = folder / "rlkd"
    for name, text in {"__init__": "", **files}.items():
        path = package / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return import_graph(package)


def test_a_circle_would_be_found(tmp_path: Path) -> None:
    graph = house(
        tmp_path,
        types="def late():\n    from rlkd import errors\n",
        errors="import rlkd.cli",
        cli="from .types import late",
    )
    assert circle(graph) == ["rlkd.cli", "rlkd.types", "rlkd.errors", "rlkd.cli"]


def test_an_upward_import_would_be_found(tmp_path: Path) -> None:
    graph = house(
        tmp_path,
        losses__in____init__="from rlkd.temperature import x\nfrom rlkd.types import y",
        temperature__in__fixed="from rlkd.agent.ppo import z",
        temperature__in____init__="from rlkd.temperature.fixed import z as x",
        agent__in__ppo="from rlkd import losses",
        types="",
    )
    assert upward(graph, FLOORS) == [
        "rlkd.losses -> rlkd.temperature",
        "rlkd.temperature.fixed -> rlkd.agent.ppo",
    ]


def test_a_wait_and_a_loose_tolerance_would_be_found() -> None:
    assert waits("import numpy as np\nx.mean().item()\ny.cpu()") == [
        "import numpy",
        ".item",
        ".cpu",
    ]
    assert loose("assert_close(a, b, rtol=1e6)\napprox(1, rel=1e-6)") == [
        "rtol=1000000.0 in line 1"
    ]


def _named_in_conditions(tree: ast.AST) -> set[str]:
    """Return the strings and the classes that conditions compare with, match or ask for."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue):
            parts = [each for each in ast.walk(node) if isinstance(each, ast.Constant)]
            found |= {each.value for each in parts if isinstance(each.value, str)}
        asks = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
        if asks and isinstance(node, ast.Call):
            found |= {getattr(each, "id", "") for each in ast.walk(node.args[1])}
    return found


def _own_files(choice: Path) -> set[str]:
    """Return the files of what a group's option is made of."""
    targets = re.findall(r"_target_: (\S+)", choice.read_text(encoding="utf-8"))
    return {str(inspect.getsourcefile(get_object(target))) for target in targets}


def test_no_condition_names_a_method_or_a_source_outside_its_own_file() -> None:
    choices = {*options("method"), *options("temperature")}
    classes = {
        each.__name__
        for room in (rlkd.losses, rlkd.temperature, rlkd)
        for each in (getattr(room, name) for name in dir(room))
        if isinstance(each, type) and issubclass(each, torch.nn.Module)
    } - {"Objective", "TemperatureSource", "LogitDriven"}
    assert {"CRD", "TemperatureAgent", "GlobalCTKD"} <= classes
    assert {"dkd", "ctkd", "rlkd"} <= choices
    files = [
        each for group in ("method", "temperature") for each in CONFIGS.glob(f"{group}/*.yaml")
    ]
    own = {path.stem: _own_files(path) for path in files}
    for path in sorted(Path(rlkd.__file__).parent.rglob("*.py")):
        named = _named_in_conditions(ast.parse(path.read_text(encoding="utf-8")))
        found = named & (choices | classes)
        strangers = [each for each in found if str(path) not in own.get(each, ())]
        assert not strangers, path


@pytest.mark.parametrize(
    "line",
    ['if method == "dkd": pass', 'x = 1 if name in ("crd", "sp") else 2', "isinstance(a, CRD)"],
)
def test_such_a_condition_would_be_found(line: str) -> None:
    assert _named_in_conditions(ast.parse(line)) & {"dkd", "crd", "CRD"}


def test_the_agent_knows_nothing_of_detection() -> None:
    text = "\n".join(path.read_text() for path in python_files("src/rlkd/agent"))
    assert not re.search("detect|region|proposal|boxes", text, flags=re.IGNORECASE)
