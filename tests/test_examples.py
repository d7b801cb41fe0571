"""The notebooks of examples/: executed with small settings; their outputs are there, and small."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LARGEST = 600_000  # bytes


def shows(content: dict[str, Any]) -> list[set[str]]:
    """For each cell of code, whether it shows text, images or an error."""
    kinds = []
    for cell in content["cells"]:
        found = {
            kind.split("/")[0]
            for output in cell.get("outputs", ())
            for kind in output.get("data", {output["output_type"]: ""})
        }
        kinds.append(found - {"text", "stream"})
    return kinds


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 5


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_small_and_without_errors(notebook: Path) -> None:
    text = notebook.read_text()
    assert len(text) < LARGEST
    assert set().union(*shows(json.loads(text))) == {"image"}, "make notebooks"
    assert not re.search("/home/|/tmp/|/root/|Traceback", text)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel", "skimage", "diffusers"):
        pytest.importorskip(package)
    execute = runpy.run_path(str(EXAMPLES / "execute.py"))["execute"]
    assert shows(execute(notebook, tmp_path, quick=True)) == shows(json.loads(notebook.read_text()))
