"""Runs the notebook and keeps what it printed: `make notebook`.

python docs/execute.py [NOTEBOOK [TO]]    # TO takes the result in the place of the notebook
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"
SECONDS = 300
"""Within which a laptop does each cell."""


def execute(path: Path = NOTEBOOK, to: Path | None = None) -> None:
    """Run a notebook in a fresh kernel, and write it with its outputs and nothing of this machine.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; nothing is written then.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3").execute()
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
    nbformat.write(notebook, to or path)


if __name__ == "__main__":
    execute(*map(Path, sys.argv[1:]))
