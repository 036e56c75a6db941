"""The notebooks run from top to bottom, offline; what they print is thrown away."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nbformat", reason="needs the extra docs")

from scripts.docs import execute, notebooks, read


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    cells = [cell for cell in execute(path, tmp_path).cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in cells)


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_committed_notebook_holds_its_outputs(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in cells), "run `python -m scripts.docs notebooks`"
