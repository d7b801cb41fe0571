"""The shape of the house: short files, imports at the top, no circles."""

import ast
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from omnitok.cli import VERBS

SOURCE = Path(__file__).resolve().parents[1] / "src/omnitok"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST, LONGEST_VERB = 500, 150  # lines

# Packages that need not be installed, and those that take long to import and are not always used.
OPTIONAL = {"diffusers", "gradio", "onnx", "onnxruntime", "onnxscript", "ray", "skimage", "transformers"}
SLOW = {
    "torch": "cli",
    "rich": "cli",
    "tqdm": "cli",
    "fsspec": "files.py",
    "huggingface_hub": "hub",
}  # package -> where

# `OmniTokenizer.from_pretrained` and `.save_pretrained` belong to the class, and the hub builds that class.
METHODS_OF_THE_HUB = {"models/tokenizer.py"}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0]


def imports_inside_functions(path: Path) -> Iterator[str]:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in ast.walk(function):
                if isinstance(statement, ast.ImportFrom):
                    yield statement.module or ""
                elif isinstance(statement, ast.Import):
                    yield from (alias.name for alias in statement.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_file_is_short_and_imports_at_its_top(path: Path) -> None:
    is_verb = room(path) == "cli" and path.stem in VERBS
    assert len(path.read_text().splitlines()) <= (LONGEST_VERB if is_verb else LONGEST)
    if path.relative_to(SOURCE).as_posix() in METHODS_OF_THE_HUB:
        return
    for name in imports_inside_functions(path):
        package = name.split(".")[0]
        # Verbs import what computes when they run, so that `--help` is quick.
        allowed = package in OPTIONAL or name == "torch.utils.tensorboard" or SLOW.get(package) == room(path)
        assert allowed or (room(path) == "cli" and package == "omnitok"), name


def test_no_circle_between_files() -> None:
    graph = grimp.build_graph("omnitok", exclude_type_checking_imports=True)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    imports["omnitok"] = set()  # the public names, which are imported when they are used
    imports["omnitok.models.tokenizer"] = {
        name for name in imports["omnitok.models.tokenizer"] if not name.startswith("omnitok.hub")
    }
    # Remove what imports nothing that is left, again and again; only circles, and what leads to them, stay.
    while free := [module for module, names in imports.items() if not names & imports.keys()]:
        for module in free:
            del imports[module]
    assert not imports
