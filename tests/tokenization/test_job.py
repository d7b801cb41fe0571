"""A job writes into a folder of its own, and removes or replaces nothing that `tokenize` did not write."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from omnitok.data import write_image
from omnitok.data.index import build_index
from omnitok.data.pixel_format import PixelFormat
from omnitok.errors import ShardError
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.tokenization.job import TokenizeJob, check_apart
from omnitok.tokenization.pipeline import tokenize_here

from .conftest import contents, plan_of, smooth


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("00000/a.png", "00001/b.png", ".00000.notes.png", "c.png"):
        write_image(tmp_path / "in" / name, smooth(0, 1, 24, 24)[:, 0])
    return tmp_path / "in"


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("inside", [".", "shards", "00000"])
def test_an_output_in_its_collection_is_refused(
    images: Path, tokenizer: OmniTokenizer, inside: str, resume: bool
) -> None:
    before = contents(images)
    with pytest.raises(ShardError, match="would lie in the collection"):
        TokenizeJob(plan_of(images, tokenizer), images / inside, resume=resume)
    assert contents(images) == before


def test_a_collection_in_its_output_is_refused(images: Path, tokenizer: OmniTokenizer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    images.rename(out)
    (tmp_path / "list.txt").write_text("out/00000/a.png\n")
    (tmp_path / "linked").symlink_to(out / "00000")
    before = contents(out)
    for source in (out / "00000", out / "c.png", tmp_path / "linked", tmp_path / "list.txt"):
        with pytest.raises(ShardError, match="files of the collection lie there"):
            TokenizeJob(plan_of(source, tokenizer), out, resume=True)
    assert contents(out) == before


@pytest.mark.parametrize("name", ["00000", "00007", "123456", "index.json", "errors.jsonl"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_left_alone(
    images: Path, tokenizer: OmniTokenizer, tmp_path: Path, name: str, resume: bool
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir()
    if path.suffix:
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "items.npy").write_bytes(b"mine")
    before = contents(tmp_path / "out")
    with pytest.raises(ShardError, match=rf"holds {name}, but no plan.json"):
        TokenizeJob(plan_of(images, tokenizer), tmp_path / "out", resume=resume)
    assert contents(tmp_path / "out") == before


def test_nothing_foreign_is_removed_from_a_folder_of_ours(
    images: Path, tokenizer: OmniTokenizer, tmp_path: Path
) -> None:
    plan, out = plan_of(images, tokenizer, shard_size=1), tmp_path / "out"
    job = TokenizeJob(plan, out)
    tokenize_here(job, tokenizer, 0)
    assert job.finish()
    shutil.rmtree(out / "00001")
    hidden = [".00000.mine", ".00001.mine.partial", ".index.mine.partial.json"]
    for name in hidden:
        (out / name).mkdir()
        (out / name / "a.jpg").touch()
    job = TokenizeJob(plan, out, resume=True)
    tokenize_here(job, tokenizer, 0)
    assert job.finish()
    assert all((out / name / "a.jpg").exists() for name in hidden)

    (out / "00001/items.npy").write_bytes(b"damaged")
    (out / "00001/a.jpg").write_bytes(b"mine")
    before = contents(out)
    with pytest.raises(ShardError, match=r"00001: holds a\.jpg, which is not of"):
        TokenizeJob(plan, out, resume=True)
    assert contents(out) == before
    (out / "00001").rename(tmp_path / "moved")
    (out / "00001").symlink_to(tmp_path / "moved")
    with pytest.raises(ShardError, match="is no folder of"):
        TokenizeJob(plan, out, resume=True)


def test_the_output_is_a_file(images: Path, tokenizer: OmniTokenizer, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ShardError, match="is no folder"):
        TokenizeJob(plan_of(images, tokenizer), tmp_path / "out")


def test_beside_is_not_inside(images: Path, tokenizer: OmniTokenizer) -> None:
    collection = build_index([images], labels="auto")
    check_apart(collection, images.with_name("in-shards"))
    check_apart(collection, images.parent / "in" / ".." / "shards")


def test_a_plan_with_ranges_goes_on(images: Path, tokenizer: OmniTokenizer, tmp_path: Path) -> None:
    plan = replace(plan_of(images, tokenizer), pixel_format=PixelFormat(3, ((0, 100),)))
    TokenizeJob(plan, tmp_path / "out")
    TokenizeJob(plan, tmp_path / "out", resume=True)
    other = replace(plan, pixel_format=PixelFormat(3, ((0, 200),)))
    with pytest.raises(ShardError, match=r"was begun with ranges \[\[0.0, 100.0\]\], not \[\[0.0, 200.0\]\]"):
        TokenizeJob(other, tmp_path / "out", resume=True)
