"""Every notebook runs from top to bottom."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import data_folder

FOLDER = Path(__file__).parent.parent / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    if any("LLMDS_DATA" in cell.source for cell in notebook.cells):
        if data_folder() is None:
            pytest.skip("no data: LLMDS_DATA names no folder, and there is no ../shared/data")
        monkeypatch.setenv("LLMDS_DATA", os.fspath(data_folder()))
    stored = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs or cell is stored[0] for cell in stored if "plt" in cell.source), "outputs are kept with it"
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": os.fspath(tmp_path)}}
    ).execute()
