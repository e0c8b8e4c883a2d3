"""The notebooks run from beginning to end, in a folder of their own, as a reader runs them."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_beginning_to_end(notebook: Path, tmp_path: Path) -> None:
    here = shutil.copy(notebook, tmp_path)
    done = NotebookClient(
        nbformat.read(here, as_version=4), timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert all(cell.get("execution_count") for cell in done.cells if cell.cell_type == "code")


def test_notebooks_are_kept_without_their_output() -> None:
    for notebook in EXAMPLES.glob("*.ipynb"):
        for cell in nbformat.read(notebook, as_version=4).cells:
            assert not cell.get("outputs"), notebook.name
