"""The tutorials run from top to bottom, with a few steps each."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, request):
    environment = os.environ | {"SMOKE_TEST": "1"}
    ignored = [f"-W{one}" for one in request.config.getoption("pythonwarnings") or ()]  # what pytest was told to
    command = [sys.executable, "-W", "error", *ignored, str(path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_is_a_notebook_in_percent_format(path):
    notebook = jupytext.read(path)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert notebook.metadata["jupytext"]["text_representation"]["format_name"] == "percent"
    assert "markdown" in kinds and "code" in kinds
