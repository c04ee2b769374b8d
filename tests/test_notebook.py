"""The notebook runs as it stands, and what it keeps of its last run is small and of no machine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [each for each in found if each["cell_type"] == "code"]


def execute(notebook: Path, to: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    command = [sys.executable, str(ROOT / "docs" / "execute.py"), str(notebook), str(to)]
    sources = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = os.environ | {"PYTHONPATH": sources}
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_what_is_kept_is_whole_small_and_of_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 200_000
    assert re.findall(r"(?:/(?:home|root|Users|work|tmp|usr|opt|mnt)/|[A-Z]:\\\\)\S+", text) == []
    code = cells(NOTEBOOK)
    assert [each["execution_count"] for each in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for each in code for output in each["outputs"]}
    assert kinds == {"stream", "display_data"}
    streams = {o["name"] for each in code for o in each["outputs"] if "name" in o}
    assert streams == {"stdout"}


@pytest.mark.long
def test_the_notebook_runs(tmp_path: Path) -> None:
    done = execute(NOTEBOOK, tmp_path / "run.ipynb")
    assert done.returncode == 0, done.stderr
    said = "".join(
        "".join(output.get("text", ()))
        for each in cells(tmp_path / "run.ipynb")
        for output in each["outputs"]
    )
    assert said.count("answers as the student does") == 2
    assert said.count("against constant T") == 3


@pytest.mark.long
def test_an_error_in_a_cell_would_be_found(tmp_path: Path) -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = next(each for each in content["cells"] if each["cell_type"] == "code")
    code["source"] = ["raise ValueError('of this cell')"]
    (tmp_path / "bad.ipynb").write_text(json.dumps(content))
    done = execute(tmp_path / "bad.ipynb", tmp_path / "run.ipynb")
    assert done.returncode != 0
    assert "of this cell" in done.stderr
    assert not (tmp_path / "run.ipynb").exists()
