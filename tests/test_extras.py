"""What pyproject.toml declares is used: each distribution by the package, and each extra's by a test too."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: wanted for name, wanted in PROJECT["optional-dependencies"].items() if name != "dev"}

MODULES = {
    "import-linter": "importlinter",
    "myst-nb": "myst_nb",
    "pillow": "PIL",
    "pytest-xdist": "xdist",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
}
"""Distribution -> what is imported, where that has another name."""

BEHIND = {"torch.utils.tensorboard": "tensorboard", "pydantic_core": "pydantic"}
"""Module -> what it is nothing without, or a part of."""


def distribution(requirement: str) -> str:
    match = re.match(r"[\w-]+", requirement)
    assert match is not None
    return match[0]


def module(requirement: str) -> str:
    name = distribution(requirement)
    return MODULES.get(name, name.replace("-", "_"))


def imported(folder: Path) -> set[str]:
    """Packages that the files of a folder import, or ask for as `pytest.importorskip` does."""
    return {name for path in folder.rglob("*.py") for name in imports_of(ast.parse(path.read_text()))}


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("importorskip"):
            names = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        for name in names:
            package = name.partition(".")[0]
            yield BEHIND.get(name) or BEHIND.get(package, package)


SOURCES = imported(ROOT / "src")
TESTS = imported(ROOT / "tests")
SITE = (ROOT / "docs/conf.py").read_text()


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_what_is_always_installed_is_imported(requirement: str) -> None:
    assert module(requirement) in SOURCES


@pytest.mark.parametrize("extra, requirement", [(extra, each) for extra, wanted in EXTRAS.items() for each in wanted])
def test_an_extra_has_a_feature_and_a_test(extra: str, requirement: str) -> None:
    name = module(requirement)
    assert name in SOURCES or (extra == "docs" and re.search(rf"\b{name}\b", SITE)), "used by nothing"
    assert name in TESTS, "imported by no test"


@pytest.mark.parametrize("requirement", PROJECT["optional-dependencies"]["dev"])
def test_a_tool_of_development_is_used(requirement: str) -> None:
    """By a test, a notebook's execution, the Makefile, or as a tool that pyproject.toml configures."""
    name = distribution(requirement)
    called = (
        (ROOT / "Makefile").read_text() + (ROOT / ".ci/run").read_text() + (ROOT / "examples/execute.py").read_text()
    )
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    by_name = {"import-linter": "lint-imports", "pytest-xdist": "-n ", "ipykernel": "kernel"}.get(name, name)
    assert module(requirement) in TESTS or name in tools or re.search(rf"(?<![\w-]){by_name}", called), (
        "used by nothing"
    )


def test_what_src_imports_is_declared() -> None:
    """Nothing is imported that only happens to be installed with something else."""
    declared = {
        module(each) for each in PROJECT["dependencies"] + [each for extra in EXTRAS.values() for each in extra]
    }
    standard = {"omnitok", *sys.stdlib_module_names}
    assert SOURCES - declared - standard == set()
