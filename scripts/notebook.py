"""Execute docs/python.ipynb in an empty folder and keep what it printed: python scripts/notebook.py [--check]."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FILE = Path(__file__).resolve().parent.parent / "docs" / "python.ipynb"


def executed(folder: Path) -> nbformat.NotebookNode:
    """Return the notebook after its cells ran in a folder; a cell that fails raises."""
    notebook = nbformat.read(FILE, as_version=4)
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # times of execution, which differ
    notebook.metadata = {"language_info": {"name": "python"}}
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        made = executed(Path(home))
    if "--check" not in sys.argv:
        nbformat.write(made, FILE)
