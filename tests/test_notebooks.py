"""The notebooks are kept as they are read: without output. `.ci/wheel-test` runs them from beginning to end."""

from pathlib import Path

import nbformat

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_notebooks_are_kept_without_their_output() -> None:
    for notebook in EXAMPLES.glob("*.ipynb"):
        for cell in nbformat.read(notebook, as_version=4).cells:
            assert not cell.get("outputs"), notebook.name
