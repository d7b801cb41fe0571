"""The documentation: its API pages name everything public, and the Python in README and guides runs."""

import doctest
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest
import torch

import omnitok
from omnitok import cli, limits
from omnitok.data import write_image, write_video
from omnitok.hub.names import pretrained_models

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


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and why it is not run, where it is not."""

    language: str
    text: str
    not_run: str | None

    def commands(self) -> Iterator[list[str]]:
        """The arguments of each command of a shell block that begins with `omnitok`."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for command in (list(group) for is_and, group in groupby(words, "&".__eq__) if not is_and):
                if command[0] == "omnitok":
                    yield command[1:]


def blocks_of(page: Path) -> list[Block]:
    """The blocks of Python and of a shell."""
    found = re.findall(
        r"^(?:<!-- not run: (.+) -->\n)?```(python|sh)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL
    )
    return [Block(language, text, reason or None) for reason, language, text in found]


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
    assert {page.stem for page in (DOCS / "models").glob("*.md")} - {"index"} == set(pretrained_models())


@pytest.mark.parametrize("page", [*DOCS.glob("*.md"), *(DOCS / "models").glob("*.md")], ids=lambda page: page.stem)
def test_included_parts_are_there(page: Path) -> None:
    for name, options in re.findall(r"^```\{include\} (\S+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        included = (page.parent / name).read_text()
        for marker in re.findall(r'^:(?:start-after|end-before): "(.+)"$', options, re.MULTILINE):
            assert marker in included, (name, marker)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_commands_of_the_blocks_are_understood(page: Path) -> None:
    for block in blocks_of(page):
        for command in block.commands() if block.language == "sh" else ():
            cli._parse(command)


@pytest.mark.parametrize(
    "page",
    [page for page in GUIDES if any(b.language == "python" for b in blocks_of(page))],
    ids=lambda page: page.stem,
)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_media()
    if page.name == "tokenizing.md":  # its Python reads what its commands write
        run(["tokenize", "images", "-o", "shards", "--model", "omnitok-tiny-vq", "--resolution", "64"])
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.language == "python" and not block.not_run:
            exec(compile(block.text, page.name, "exec"), names)
        elif page.name == "quickstart.md" and not block.not_run:
            for command in block.commands():
                run(command)
    if page.name == "README.md":
        assert isinstance(names["tok"], omnitok.OmniTokenizer)
        assert names["video_again"].shape == (1, 3, 33, 48, 72)


DOCTESTED = [path for path in (ROOT / "src").rglob("*.py") if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", DOCTESTED, ids=lambda path: path.stem)
def test_doctests(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0


def test_badges_say_what_the_package_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = {re.split("[>=]+", need)[0]: re.split("[>=]+", need)[-1] for need in project["dependencies"]}
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    said = {
        "licence": project["license"],
        "python": " | ".join(re.findall(r'"(3\.\d+)"', workflow)),
        "torch": f"≥ {least['torch']}",
        "docs": "make docs",
    }
    assert {path.stem for path in (DOCS / "images/badges").iterdir()} == set(said)
    for name, text in said.items():
        assert f">{text}<" in (DOCS / f"images/badges/{name}.svg").read_text(), name


def test_every_bound_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(OMNITOK_MAX_\w+)` \|", (DOCS / "media.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(limit.variable for limit in vars(limits).values() if isinstance(limit, limits.Limit))


def test_results_of_the_readme_are_those_of_reproduction() -> None:
    for line in re.findall(r"^\| `omnitok-tiny-.*$", (ROOT / "README.md").read_text(), re.MULTILINE):
        name, *_, images, videos = [cell.strip() for cell in line.strip("|").split("|")]
        measured = next(
            row for row in (DOCS / "reproduction.md").read_text().splitlines() if row.startswith(f"| {name}")
        )
        cells = [cell.strip() for cell in measured.strip("|").split("|")]
        assert (images, videos) == (cells[1], cells[6]), name


def test_few_blocks_are_not_run() -> None:
    assert sum(block.not_run is not None for page in GUIDES for block in blocks_of(page)) <= 4


def run(command: list[str]) -> None:
    assert cli.main([*command, "--device", "cpu"]) == 0, command


def write_media() -> None:
    """The files that the pages speak of."""
    video = torch.nn.functional.interpolate(torch.rand(1, 3, 3, 4, 6), (35, 48, 72), mode="trilinear")[0] * 2 - 1
    write_image("image.jpg", video[:, 0])
    write_video("video.mp4", video, fps=25)
    for number, name in enumerate(["apple/0.png", "apple/1.png", "watch/0.png", "watch/1.png"]):
        write_image(Path("images", name), video[:, number])
