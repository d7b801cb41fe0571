"""Captions from tables, from text files beside, and from tars: several per sample, with bounds, and only when asked."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from omnitok.data import write_image
from omnitok.data.captions import LONGEST, MOST, draw
from omnitok.data.config import DataConfig
from omnitok.data.index import build_index
from omnitok.data.loader import Batch, PixelDataset, load_batches
from omnitok.data.sampler import Sampler
from omnitok.data.samples import Index
from omnitok.errors import MediaError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in "abcd":
        write_image(tmp_path / f"set/{name}.png", torch.zeros(3, 8, 8))
    (tmp_path / "set/a.txt").write_text("\ufefffirst of a\n\n  second of a \r\n", encoding="utf-8")
    (tmp_path / "set/b.txt").write_text("only of b")
    (tmp_path / "set/c.txt").write_text(" \n")
    return tmp_path / "set"


def captions_of(index: Index) -> dict[str, tuple[str, ...]]:
    assert index.captions
    return {sample.key: sample.read_captions() for sample in (*index.images, *index.videos)}


OF_FOLDER = {"a.png": ("first of a", "second of a"), "b.png": ("only of b",), "c.png": (), "d.png": ()}


def test_text_files_beside_those_of_a_folder(images: Path) -> None:
    assert captions_of(build_index(images, captions=True)) == OF_FOLDER
    assert captions_of(build_index(images=images, captions=True)) == OF_FOLDER
    assert captions_of(build_index([images / "a.png"], captions=True)) == {"a.png": OF_FOLDER["a.png"]}


def test_text_files_beside_those_of_a_list(images: Path) -> None:
    (images / "list.lst").write_text("a.png\nb.png\nd.png\n")
    listed = captions_of(build_index(images / "list.lst", captions=True))
    assert listed == {name: OF_FOLDER[name] for name in ("a.png", "b.png", "d.png")}


@pytest.mark.parametrize("column", ["caption", "Captions", " text "])
def test_tables_win_over_text_files_beside(images: Path, column: str) -> None:
    (images / "list.csv").write_text(f'path,{column}\na.png,"a ""dog"", running"\nb.png,\nd.png, über d \n', "utf-8")
    assert captions_of(build_index(images / "list.csv", captions=True)) == {
        "a.png": ('a "dog", running',),
        "b.png": ("only of b",),
        "d.png": ("über d",),
    }
    rows = [{"path": "a.png", column: ["one", " ", "two\nlines"]}, {"file": "b.png", column: "one"}, {"path": "d.png"}]
    (images / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert captions_of(build_index(images / "list.jsonl", captions=True)) == {
        "a.png": ("one", "two\nlines"),
        "b.png": ("one",),
        "d.png": (),
    }


def test_a_manifest_in_a_folder(images: Path) -> None:
    (images / "manifest.csv").write_text("path,caption\na.png,told\nnone.png,of nothing\nb.png," + "x" * 5000 + "\n")
    index = build_index(images, captions=True)
    bad = [sample for sample in index.images if sample.error]
    assert [sample.key for sample in bad] == ["manifest.csv, line 4"]
    good = {sample.key: sample.read_captions() for sample in index.images if not sample.error}
    assert good == {**OF_FOLDER, "a.png": ("told",)}


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_members_of_a_tar(tmp_path: Path) -> None:
    members = {
        "0.jpg": b"x",
        "0.txt": b"one\ntwo\n",
        "0.json": b'{"label": 3, "caption": "not this"}',
        "1.json": b'{"text": ["three", "four"]}',
        "1.jpg": b"x",
        "2.jpg": b"x",
        "3.jpg": b"x",
        "3.txt": b"\xff\xfe",
        "v.0000.png": b"x",
        "v.0001.png": b"x",
        "v.txt": b"of all",
        "v.0001.txt": b"of one",
        "4.mp4": b"x",
        "4.cls": b"2",
        "4.txt": b"a video",
    }
    index = build_index(write_tar(tmp_path / "s.tar", members), captions=True)
    assert captions_of(index) == {
        "s.tar/0.jpg": ("one", "two"),
        "s.tar/1.jpg": ("three", "four"),
        "s.tar/2.jpg": (),
        "s.tar/3.jpg": (),
        "s.tar/v.0000.png": ("of all",),
        "s.tar/v.0001.png": ("of one",),
        "s.tar/4.mp4": ("a video",),
    }
    errors = {sample.key: sample.error for sample in index.images if sample.error}
    assert list(errors) == ["s.tar/3.jpg"]
    assert errors["s.tar/3.jpg"].startswith(f"{tmp_path}/s.tar/3.txt: cannot be read as a text file in UTF-8")
    assert [sample.label for sample in (*index.images, *index.videos)] == [3, -1, -1, -1, -1, -1, 2]
    assert not [sample.error for sample in build_index(tmp_path / "s.tar").images if sample.error]


@pytest.mark.parametrize(
    "value, said",
    [
        ("é" * (LONGEST // 2) + "x", "a caption has 4097 bytes, at most 4096 are accepted"),
        (["a"] * (MOST + 1), "has 65 captions, at most 64 are accepted"),
        ("a\0b", "a caption holds a NUL character"),
        ("\ud800", "a caption is not UTF-8 text"),
        (7, "a caption is text, found '7'"),
        ([["a"]], "a caption is text, found"),
        ({"en": "a"}, "a caption is text, found"),
    ],
)
def test_what_is_no_caption_is_one_sentence_with_file_and_line(images: Path, value: object, said: str) -> None:
    rows = [{"path": "a.png", "caption": "x" * LONGEST}, {"path": "b.png", "caption": value}]
    (images / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    good, bad = build_index(images / "list.jsonl", captions=True).images
    assert good.read_captions() == ("x" * LONGEST,)
    assert bad.error.startswith(f"{images}/list.jsonl, line 2: {said}")
    assert "\n" not in bad.error
    assert not build_index(images / "list.jsonl").images[1].error

    if isinstance(value, str | list) and value != [["a"]]:
        lines = value if isinstance(value, list) else ["fine", value]
        (images / "d.txt").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        (sample,) = (sample for sample in build_index(images, captions=True).images if sample.key == "d.png")
        with pytest.raises(MediaError, match=r"d\.png: its captions in d\.txt") as error:
            sample.read_captions()
        assert "\n" not in str(error.value)


def test_a_huge_text_file_is_not_read(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNITOK_MAX_TEXT", "12")
    with pytest.raises(MediaError, match=r"a\.png: its captions in a\.txt: a file of 13 bytes or more is above"):
        build_index(images, captions=True).images[0].read_captions()


def test_nobody_asks(images: Path) -> None:
    (images / "list.csv").write_text("path,caption\na.png,told\n")
    for source in (images, images / "list.csv", images / "a.png"):
        index = build_index(source)
        assert not index.captions
        assert {sample.captions for sample in index.images} == {()}


def test_samples_stay_small(images: Path) -> None:
    (images / "list.lst").write_text("a.png\n" * 1000)
    plain, asked = (build_index(images / "list.lst", captions=asked).images for asked in (False, True))
    assert len(asked._rows) - len(plain._rows) <= 30 * 1000
    assert asked.select([3, 5])[1].read_captions() == OF_FOLDER["a.png"]


def test_the_collection_is_another_one_with_other_captions(images: Path) -> None:
    hashes = []
    for caption, asked in (("x", True), ("y", True), ("y", False), ("z", False)):
        (images / "list.csv").write_text(f"path,caption\na.png,{caption}\n")
        hashes.append(build_index(images / "list.csv", captions=asked).sha256())
    assert len(set(hashes)) == 3
    assert hashes[2] == hashes[3]


def test_each_of_several_captions_is_drawn() -> None:
    drawn = [draw(("a", "b", "c"), (0, step, 5)) for step in range(300)]
    assert all(80 < drawn.count(caption) < 120 for caption in "abc")
    assert drawn == [draw(("a", "b", "c"), (0, step, 5)) for step in range(300)]
    assert (draw((), (0,)), draw(("a",), (0,))) == (None, "a")


def pixels_of(index: Index, rank: int = 0, world_size: int = 1) -> PixelDataset:
    config = DataConfig(resolutions=(8,), image_batch=4)
    return PixelDataset(index, Sampler(len(index.images), 0, config, 3), config, rank, world_size)


def test_batches_of_pixels(images: Path) -> None:
    index = build_index(images, captions=True)
    batches = list(load_batches(pixels_of(index), 0, 8))
    assert all(sorted(batch.captions)[:2] == ["", ""] and len(batch.captions) == 4 for batch in batches)
    seen = {caption for batch in batches for caption in batch.captions}
    assert seen == {"first of a", "second of a", "only of b", ""}

    def captions(dataset: PixelDataset, workers: int) -> list[tuple[str, ...]]:
        read: list[Batch] = list(load_batches(dataset, 0, 8, workers=workers))
        return [batch.captions for batch in read]

    for rank in range(2):
        assert captions(pixels_of(index, rank, 2), rank) == [batch.captions[rank::2] for batch in batches]
    assert captions(pixels_of(build_index(images)), 0) == [()] * 8


def test_a_file_whose_captions_cannot_be_read_is_replaced_and_counted(images: Path) -> None:
    (images / "b.txt").write_bytes(b"\xff")
    batches = list(load_batches(pixels_of(build_index(images, captions=True)), 0, 4))
    assert {Path(path).name for batch in batches for path, _ in batch.failures} == {"b.png"}
    assert all(batch.size == 4 for batch in batches)
