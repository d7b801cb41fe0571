"""torch.hub: the checkout as a repository of models."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import omnitok
from omnitok.hub.names import model_info, pretrained_models
from omnitok.models.protocol import fingerprint

ROOT = Path(__file__).resolve().parents[1]


def entry_point(name: str) -> str:
    return name.replace("-", "_")


def test_models_are_listed_and_nothing_else() -> None:
    found = runpy.run_path(str(ROOT / "hubconf.py"))  # `torch.hub.list` takes addresses of GitHub only
    listed = {name: value for name, value in found.items() if callable(value) and not name.startswith("_")}
    assert set(listed) == {*map(entry_point, pretrained_models()), "generator", "tokenizer"}
    for name in pretrained_models():
        assert model_info(name).description in listed[entry_point(name)].__doc__


def test_a_tokenizer_and_a_generator_load() -> None:
    tokenizer = torch.hub.load(str(ROOT), "omnitok_tiny_vq", source="local", dtype=torch.bfloat16)
    assert tokenizer.dtype == torch.bfloat16
    assert not tokenizer.training
    same = torch.hub.load(str(ROOT), "tokenizer", "omnitok-tiny-vq", source="local")
    assert fingerprint(same) == fingerprint(omnitok.OmniTokenizer.from_pretrained("omnitok-tiny-vq"))
    generator = torch.hub.load(str(ROOT), "omnitok_tiny_lm", source="local")
    assert generator.settings == omnitok.load_generator("omnitok-tiny-lm").settings


def test_the_package_need_not_be_installed(tmp_path: Path) -> None:
    """What is in the checkout is found without a path to it, as in the folder that torch.hub unpacks."""
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if not p.endswith('/src')]; sys.meta_path[:] = "
        "[f for f in sys.meta_path if 'editable' not in repr(f).lower()]; import torch; "
        f"print(torch.hub.load({str(ROOT)!r}, 'omnitok_tiny_vq', source='local').vocab_size); "
        "import omnitok; print(omnitok.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(done.stderr)
    assert done.stdout.split() == ["8192", str(ROOT / "src/omnitok/__init__.py")]
