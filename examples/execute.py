"""Execute notebooks and write their outputs into them: `python examples/execute.py [NOTEBOOK...]`, `make notebooks`."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def execute(notebook: Path, folder: Path, quick: bool = False) -> nbformat.NotebookNode:
    """The notebook with its outputs, which works in `folder`; `quick` as its QUICK.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    content = nbformat.read(notebook, as_version=4)
    env = os.environ | {"JUPYTER_PLATFORM_DIRS": "1", "IPYTHONDIR": str(folder / ".ipython"), "NO_COLOR": "1"}
    env |= {"OMNITOK_QUICK": "1"} if quick else {}
    NotebookClient(content, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute(
        env=env
    )
    for cell in content.cells:
        cell.metadata.pop("execution", None)  # when it ran
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data and "image/jpeg" in data:  # PIL gives both
                del data[max("image/png", "image/jpeg", key=lambda kind: len(data[kind]))]
    return content


if __name__ == "__main__":
    for given in sys.argv[1:] or sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as scratch:
            nbformat.write(execute(Path(given), Path(scratch)), given)
        print(given)
