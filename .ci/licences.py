"""Write LICENCES.md: what rlkd depends on, and under which licences that is.

python .ci/licences.py, where all of it is installed (`make test` makes such a .venv). The licences
are those that the installed packages' own metadata say.
"""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """# Licences of what rlkd depends on

Written by `python .ci/licences.py` from the packages' own metadata. rlkd ships none of them: they
are installed beside it. rlkd itself is under the [MIT licence](LICENSE).

| package | needed by | licence |
|---|---|---|
"""


def dependencies() -> Iterator[tuple[str, str]]:
    """Yield each package that pyproject.toml names, and who needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"rlkd": project["dependencies"], **project["optional-dependencies"]}
    needed: dict[str, list[str]] = {}
    for group, requirements in groups.items():
        for each in requirements:
            name = re.split(r"[\s\[<>=!~;]", each)[0]
            needed.setdefault(name, []).append("rlkd" if group == "rlkd" else f"rlkd[{group}]")
    for name, by in sorted(needed.items()):
        users = [each for each in by if each != "rlkd[dev]"] or ["tests"]
        yield name, ", ".join(users)


def licence(name: str) -> str:
    """Return the licence of an installed package, in a line."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return "not installed where this was written"
    classified = [
        each.rpartition(" :: ")[2]
        for each in found.get_all("Classifier") or []
        if each.startswith("License :: OSI Approved :: ")
    ]
    said = (found["License"] or "").strip()
    short = said if said and "\n" not in said and len(said) < 60 else ""
    return found["License-Expression"] or ", ".join(classified) or short or "see the package"


def main() -> None:
    """Write the file."""
    rows = [f"| {name} | {by} | {licence(name)} |\n" for name, by in dependencies()]
    (ROOT / "LICENCES.md").write_text(HEAD + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
