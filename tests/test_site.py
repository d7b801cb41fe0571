"""The configuration of the documentation site: a page of prose, API and a notebook is built without a warning."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the extra docs is not installed")
pytest.importorskip("myst_nb")
pytest.importorskip("furo")

CONF = Path(__file__).resolve().parents[1] / "docs/conf.py"
PAGE = """# Site

`TokenInfo` is linked, {py:class}`omnitok.hub.names.TokenInfo` too.

```{toctree}
examples/note
```

```{eval-rst}
.. autoclass:: omnitok.hub.names.TokenInfo
```
"""


def test_a_small_site_is_built_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "examples").mkdir()
    shutil.copy2(CONF, tmp_path / "docs")
    (tmp_path / "docs/index.md").write_text(PAGE)
    cells = [{"cell_type": "markdown", "id": "0", "metadata": {}, "source": "# Note\n\nText of a notebook."}]
    note = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "examples/note.ipynb").write_text(json.dumps(note))
    command = [sys.executable, "-m", "sphinx", "-W", "-q", tmp_path / "docs", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "furo" in (tmp_path / "site/index.html").read_text()
    assert (tmp_path / "site/index.html").read_text().count('href="#omnitok.hub.names.TokenInfo"') >= 2
    assert "Text of a notebook." in (tmp_path / "site/examples/note.html").read_text()
