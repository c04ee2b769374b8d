"""What a release is made of: one version, a citation, licences, and what the sdist takes along."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_stands_in_one_place() -> None:
    version = PROJECT["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    others = [*(ROOT / "src").rglob("*.py"), ROOT / "CITATION.cff", ROOT / "docker" / "Dockerfile"]
    pattern = re.compile(rf"(?<![\w.]){re.escape(version)}(?![\w.])|__version__\s*=")
    assert [str(each) for each in others if pattern.search(each.read_text())] == []


def test_the_citation_is_of_the_paper_whose_method_it_is() -> None:
    held = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    # What the schema of Citation File Format 1.2.0 requires.
    assert held["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= held.keys()
    assert held["license"] == PROJECT["license"]
    paper = held["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert paper["url"].rpartition("/")[2] in paper["identifiers"][0]["value"]


def test_every_dependency_is_listed_with_its_licence() -> None:
    rows = (ROOT / "LICENCES.md").read_text(encoding="utf-8").splitlines()
    cells = [[each.strip() for each in row.strip("|").split("|")] for row in rows if row[:1] == "|"]
    listed = {name: licence for name, _, licence in cells[2:]}
    requirements = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]
    assert {re.split(r"[<>=\[]", each)[0] for each in requirements} == listed.keys()
    assert all(listed.values())
    assert "not installed where this was written" not in listed.values()


def test_the_sdist_takes_along_all_that_its_tests_read() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    grafted = set(re.findall(r"^graft (\S+)$", manifest, re.MULTILINE))
    assert {"tests", "docs", "examples", "benchmarks", "docker", ".ci"} <= grafted
    included = re.findall(r"^include (.*)$", manifest, re.MULTILINE)
    for name in [*grafted, *" ".join(included).split()]:
        assert (ROOT / name).exists(), name


def test_the_container_installs_what_its_steps_say() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE)) == {"cpu", "cuda"}
    steps = (ROOT / "docker" / "install.sh").read_text(encoding="utf-8")
    (extras,) = re.findall(r"\$wheel\[([\w,]+)\]", steps)
    assert {*extras.split(",")} <= PROJECT["optional-dependencies"].keys()
    assert dockerfile.count("install.sh /opt/rlkd") == 2
