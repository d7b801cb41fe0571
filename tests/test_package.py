"""The package as a whole: what it costs to import, its public names, its metadata."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import omnitok
from omnitok.atomic import sha256_of
from omnitok.cli.options import DEFAULT_MODEL
from omnitok.hub.names import pretrained_models

ROOT = Path(__file__).resolve().parents[1]


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_import_leaves_torch_alone():
    code = (
        "import sys, omnitok; dir(omnitok); omnitok.__version__; print({'torch', 'numpy'} & {*sys.modules} or 'none')"
    )
    assert run_python(code) == "none"


def test_command_line_module_leaves_torch_alone():
    code = "import sys, omnitok.cli; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def test_loading_a_model_does_not_import_the_compiler():
    code = (
        "import sys, omnitok; omnitok.OmniTokenizer.from_pretrained('omnitok-tiny-vq'); "
        "omnitok.load_generator('omnitok-tiny-lm'); print('torch._dynamo' in sys.modules)"
    )
    assert run_python(code) == "False"


def test_version_is_that_of_the_project():
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert omnitok.__version__ == declared[1] == metadata.version("omnitok")
    assert f"version: {declared[1]}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("name", [name for name in omnitok.__all__ if name != "__version__"])
def test_public_name_is_the_one_of_its_module(name: str):
    home = omnitok._HOME_OF[name]
    assert getattr(omnitok, name) is getattr(importlib.import_module(home), name)


def test_public_names_and_homes_agree():
    assert set(omnitok.__all__) == {*omnitok._HOME_OF, "__version__"}
    assert set(omnitok.__all__) <= set(dir(omnitok))


@pytest.mark.parametrize("room", omnitok._ROOMS)
def test_room_is_an_attribute(room: str):
    code = f"import omnitok; print(omnitok.{room}.__name__)"
    assert run_python(code) == f"omnitok.{room}"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'NoSuchModel'"):
        _ = omnitok.NoSuchModel
    assert not hasattr(omnitok, "NoSuchModel")


def test_type_information_ships():
    spec = importlib.util.find_spec("omnitok")
    assert spec is not None
    assert spec.origin is not None
    assert (Path(spec.origin).parent / "py.typed").is_file()


def test_the_wheel_is_small_and_holds_what_is_often_needed():
    """Without compression, which saves a fourteenth; `make wheel` measures the wheel itself."""
    excluded = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["exclude"]
    assert all((ROOT / path).is_file() for path in excluded)
    files = {str(path.relative_to(ROOT)): path for path in (ROOT / "src/omnitok").rglob("*") if path.is_file()}
    held = {name: path.stat().st_size for name, path in files.items() if "__pycache__" not in name}
    assert sum(size for name, size in held.items() if name not in excluded) < 60e6
    defaults = {DEFAULT_MODEL, "omnitok-tiny-vq-perceptual"}  # of the command line, and of the generators
    for name in defaults:
        assert f"src/omnitok/pretrained_models/{name}/model.safetensors" in held.keys() - set(excluded)


@pytest.mark.parametrize("name", pretrained_models())
def test_the_package_pins_the_weights_of_its_models(name: str):
    folder = pretrained_models()[name]
    assert json.loads((folder / "config.json").read_text())["weights_sha256"] == sha256_of(folder / "model.safetensors")


def test_every_extra_has_a_feature_that_imports_it():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    for extra, requirements in declared.items():
        if extra in ("dev", "docs"):  # for `make check test` and for `make docs`
            continue
        for requirement in requirements:
            package = re.split(r"[\[<>=~!]", requirement)[0]
            module = {"scikit-image": "skimage", "tensorboard": "torch.utils.tensorboard"}.get(package, package)
            assert re.search(rf"^\s*(import|from) {module}\b", code, re.MULTILINE), f"{extra}: nothing imports {module}"
