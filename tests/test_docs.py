"""The documentation: its API pages name everything public, and the Python in README and guides runs."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch

import omnitok
from omnitok.data import write_image, write_video
from omnitok.hub.names import bundled_models

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GUIDES = sorted({ROOT / "README.md", *DOCS.glob("*.md")} - {DOCS / "index.md", DOCS / "changelog.md"})
ROOMS = sorted(  # whatever says in `__all__` what is public
    "omnitok" + "".join(f".{part}" for part in path.parent.relative_to(ROOT / "src/omnitok").parts)
    for path in (ROOT / "src/omnitok").rglob("__init__.py")
    if re.search("^__all__ = ", path.read_text(), re.MULTILINE)
)
LISTED = [
    name
    for page in (DOCS / "api").glob("*.md")
    for name in re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", page.read_text(), re.MULTILINE)
]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_rooms_are_found() -> None:
    assert {"omnitok", "omnitok.data", "omnitok.diffusion", "omnitok.metrics"} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_api_lists_every_public_name(room: str) -> None:
    assert {f"{room}.{name}" for name in importlib.import_module(room).__all__} - set(LISTED) == set()


def test_api_lists_nothing_twice_and_nothing_that_is_gone() -> None:
    assert len(LISTED) == len(set(LISTED))
    for listed in LISTED:
        home, _, name = listed.rpartition(".")
        assert hasattr(importlib.import_module(home), name) or importlib.import_module(listed), listed


def test_every_page_is_in_the_site() -> None:
    for folder in (DOCS, DOCS / "api", DOCS / "models"):
        index = (folder / "index.md").read_text()
        trees = "\n".join(re.findall(r"^```\{toctree\}\n(.*?)^```$", index, re.MULTILINE | re.DOTALL))
        shown = {line for line in trees.splitlines() if re.fullmatch(r"[\w-]+", line)}
        assert shown == {page.stem for page in folder.glob("*.md")} - {"index"}, folder
    assert {page.stem for page in (DOCS / "models").glob("*.md")} - {"index"} == set(bundled_models())


@pytest.mark.parametrize("page", [*DOCS.glob("*.md"), *(DOCS / "models").glob("*.md")], ids=lambda page: page.stem)
def test_included_parts_are_there(page: Path) -> None:
    for name, options in re.findall(r"^```\{include\} (\S+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        included = (page.parent / name).read_text()
        for marker in re.findall(r'^:(?:start-after|end-before): "(.+)"$', options, re.MULTILINE):
            assert marker in included, (name, marker)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_imports_of_the_blocks_work(page: Path) -> None:
    for block in python_blocks(page):
        tree = ast.parse(block)
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(tree, page.name, "exec"), {})


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "media.md"], ids=lambda page: page.stem)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    video = torch.nn.functional.interpolate(torch.rand(1, 3, 3, 4, 6), (35, 48, 72), mode="trilinear")[0] * 2 - 1
    write_image("image.jpg", video[:, 0])
    write_video("video.mp4", video, fps=25)
    names: dict[str, object] = {}
    blocks = python_blocks(page)
    assert blocks
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    if page.name == "README.md":
        assert isinstance(names["tok"], omnitok.OmniTokenizer)
        assert names["video_again"].shape == (1, 3, 33, 48, 72)
