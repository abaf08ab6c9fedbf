"""The notebooks, run from the first cell to the last."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

pytestmark = pytest.mark.docs
ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@every_notebook
def test_it_is_kept_without_outputs(path):
    """What it shows is made where it is read, so that it cannot be old."""
    cells = code_cells(path)
    assert cells
    assert [c for c in cells if c.outputs or c.execution_count is not None] == []


@every_notebook
def test_it_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=500, resources=where).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    shown = [out for out in outputs if out.output_type in ("display_data", "execute_result")]
    assert any("image/png" in out.data for out in shown), "a picture"
    assert any("text/html" in out.data for out in shown), "a table"
    said = [out.text for out in outputs if out.output_type == "stream"]
    said += [out.data.get("text/plain", "") for out in shown]
    amiss = ("Warning", "is told no more")  # a callback that failed
    assert [text for text in said if any(word in text for word in amiss)] == []
    assert len(list((tmp_path / "runs").iterdir())) > 0
