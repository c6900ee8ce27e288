"""The notebook of the documentation: it runs, and its paired program is the same."""

import os
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
NOTEBOOK = REPOSITORY / "docs" / "first_model.ipynb"

pytestmark = pytest.mark.docs


def test_the_paired_program_is_the_notebook():
    jupytext = pytest.importorskip("jupytext")
    cells = [
        [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
        for path in (NOTEBOOK, NOTEBOOK.with_suffix(".py"))
    ]
    assert len(cells[0]) > 10 and cells[0] == cells[1]


def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    found = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", found)
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # of the other tests, for eight devices
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = [cell.get("outputs", []) for cell in notebook.cells]
    resources = {"metadata": {"path": str(tmp_path)}}
    # What a cell prints arrives in parts of any size.
    options = dict(timeout=900, resources=resources, coalesce_streams=True)
    nbclient.NotebookClient(notebook, **options).execute()
    printed = [
        "".join(each.get("text", "") for each in cell.get("outputs", [])) for cell in notebook.cells
    ]
    (accuracies,) = [text for text in printed if text.startswith("TRN  in order")]
    trn, reversed_trn, tsn, _ = (float(line.split()[-2]) for line in accuracies.splitlines())
    assert trn >= 90 and reversed_trn <= 10 and tsn <= 70
    # What is stored in the notebook, and shown in the documentation, has the same outputs.
    kinds = [[each.output_type for each in cell.get("outputs", [])] for cell in notebook.cells]
    assert [[each.output_type for each in outputs] for outputs in stored] == kinds
