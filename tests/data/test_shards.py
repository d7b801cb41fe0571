"""Token shards: what was written is read; whatever is wrong with a folder is one sentence."""

import json
import os
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnitok.atomic import sha256_of
from omnitok.data import TokenShards
from omnitok.data.shard_format import (
    EmbeddingFormat,
    FileFailure,
    TokenFormat,
    TokenRecord,
    codes_dtype,
    read_json,
    write_json,
)
from omnitok.data.shard_writing import (
    Token,
    begin_folder,
    read_shard,
    shard_name,
    write_index,
    write_shard,
)
from omnitok.data.token_packing import pack
from omnitok.errors import ShardError

FORMAT = TokenFormat("codes", "uint16", 64, "some-vq", "a" * 64, ("ape", "bee"))


def record(number: int, label: int = -1, fps: float | None = None) -> TokenRecord:
    size = (1 if fps is None else 9, 32, 24)
    return TokenRecord(
        f"dir/{number}-é.png", label, size, (40, 50), fps, number % 3, 17, (1, 2, 30, 20), number % 2 == 0
    )


def codes_of(number: int, grid: Sequence[int]) -> torch.Tensor:
    return torch.randint(0, 64, tuple(grid), generator=torch.Generator().manual_seed(number))


def write(
    folder: Path,
    format: TokenFormat,
    grids: Sequence[Sequence[tuple[int, ...]]],
    labels: int = 2,
    captioned: bool = False,
) -> Path:
    """Shards of items of these grids, numbered through; label = number % labels, and number % 4 captions."""
    number = 0
    for shard, of_shard in enumerate(grids):
        tokens = []
        for grid in of_shard:
            values = codes_of(number, grid)
            if format.kind == "latents":
                values = torch.stack([values + channel / 7 for channel in range(format.size)])
            fps = 10.0 if len(grid) == 3 else None
            label = number % labels if labels else -1
            captions = tuple(f"{number}, {k}" for k in range(number % 4)) if captioned else ()
            tokens.append(Token(replace(record(number, label, fps), captions=captions), pack(values, format)))
            number += 1
        write_shard(folder, shard, format, tokens, [FileFailure(key="bad.png", reason="bad.png: is bad")] * shard)
    entries = [read_shard(folder, shard) for shard in range(len(grids))]
    write_index(folder, format, [entry for entry in entries if entry is not None])
    return folder


GRIDS = [[(4, 3), (3, 4, 4), (4, 3)], [(3, 4, 4), (2, 2)], [(4, 3)] * 3]
GOLDEN_INDEX = "34299a729dee980fb84d5662867abdd71f60e89ad92a95ee0a82edc74915c1ad"  # before there were captions
GOLDEN_SHARD = "133cb256d4ece79edda100472525d5dfc4a2f99aa5c9d903fc873cfc06692baa"
ORDER = [0, 2, 1, 4, 3, 5, 6, 7]  # pictures before clips, by grid, within a shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "shards", FORMAT, GRIDS)


def test_what_was_written_is_read(folder: Path) -> None:
    shards = TokenShards(folder, verify=True)
    assert len(shards) == 8
    flat = [grid for of_shard in GRIDS for grid in of_shard]
    for place, number in enumerate(ORDER):
        item = shards[place]
        assert item.codes is not None
        assert item.codes.dtype == torch.int64
        assert torch.equal(item.codes, codes_of(number, flat[number]))
        assert item.latents is None
        assert (item.label, item.index) == (number % 2, place)
        assert item.record == record(number, number % 2, 10.0 if len(flat[number]) == 3 else None)
        assert item.key == f"dir/{number}-é.png"
    assert torch.equal(shards[-1].codes, shards[7].codes)
    assert shards.grids == {(4, 3): 5, (3, 4, 4): 2, (2, 2): 1}
    assert shards.indices_of((4, 3)).tolist() == [0, 1, 5, 6, 7]
    assert shards.labels.tolist() == [number % 2 for number in ORDER]
    assert (shards.classes, shards.class_count, shards.skipped, shards.shard_count) == (("ape", "bee"), 2, 3, 3)
    with pytest.raises(IndexError):
        shards[8]


def test_several_at_once(folder: Path) -> None:
    shards = TokenShards(folder)
    codes, labels = shards.read([7, 0, 5], (4, 3))
    assert torch.equal(codes, torch.stack([shards[i].codes for i in (7, 0, 5)]))
    assert labels.tolist() == [shards[i].label for i in (7, 0, 5)]
    with pytest.raises(ValueError, match=r"item 3 is of grid \(2, 2\)"):
        shards.read([0, 3], (4, 3))
    assert sum(len(block) for block in shards.blocks(2)) == len(shards)


@pytest.mark.parametrize("dtype, tolerance", [("float16", 2**-10), ("bfloat16", 2**-7)])
def test_latents(tmp_path: Path, dtype: str, tolerance: float) -> None:
    format = TokenFormat("latents", dtype, 3, "some-vae", "b" * 64)
    shards = TokenShards(write(tmp_path, format, [[(4, 3)], [(2, 4, 3)]], labels=0))
    expected = torch.stack([codes_of(0, (4, 3)) + channel / 7 for channel in range(3)])
    item = shards[0]
    assert item.latents is not None
    assert item.latents.dtype == torch.float32
    assert torch.allclose(item.latents, expected, rtol=tolerance)
    assert shards[1].latents.shape == (3, 2, 4, 3)
    assert (item.codes, item.label, shards.class_count) == (None, -1, 0)


def test_what_shards_cannot_hold() -> None:
    half = TokenFormat("latents", "float16", 2, "vae", "b" * 64)
    with pytest.raises(ShardError, match="beyond float16: store them as bfloat16"):
        pack(torch.tensor([1e5]), half)
    assert pack(torch.tensor([1e5]), replace(half, dtype="bfloat16")).dtype == np.uint16
    with pytest.raises(ShardError, match="NaN"):
        pack(torch.tensor([float("nan")]), half)
    with pytest.raises(ShardError, match=r"codes must lie in \[0, 64\)"):
        pack(torch.tensor([64]), FORMAT)
    assert (codes_dtype(2**16), codes_dtype(2**16 + 1)) == ("uint16", "uint32")
    assert pack(torch.tensor([2**16]), replace(FORMAT, dtype="uint32", size=2**17)).tolist() == [2**16]
    for wrong in ({"kind": "words"}, {"dtype": "float16"}, {"size": 2**17}):
        with pytest.raises(ValueError, match=r"codes|kind"):
            replace(FORMAT, **wrong)


def test_another_tokenizer_is_refused_with_both_names(folder: Path, tmp_path: Path) -> None:
    shards = TokenShards(folder)
    shards.check_tokenizer("some-vq", "a" * 64)
    with pytest.raises(ShardError, match=r"'some-vq' \(weights a+\), not of 'other-vq' \(weights c+\)"):
        TokenShards(folder, same_tokens=["c" * 64, "d" * 64]).check_tokenizer("other-vq", "c" * 64)
    TokenShards(folder, same_tokens=["c" * 64, "d" * 64, "a" * 64]).check_tokenizer("other-vq", "c" * 64)
    other = write(tmp_path / "other", replace(FORMAT, tokenizer="other-vq", tokenizer_sha256="c" * 64), [[(4, 3)]])
    with pytest.raises(ShardError, match=r"'other-vq'.*'some-vq'"):
        TokenShards([folder, other])


def test_shards_of_two_tokenizers_with_the_same_tokens(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", replace(FORMAT, tokenizer="other-vq", tokenizer_sha256="c" * 64), [[(4, 3)]])
    both = TokenShards([folder, other], same_tokens=["c" * 64, "a" * 64])
    assert torch.equal(both[-1].codes, TokenShards(other)[0].codes)
    both.check_tokenizer("other-vq", "c" * 64)
    with pytest.raises(ShardError, match="not of 'third-vq'"):
        both.check_tokenizer("third-vq", "d" * 64)
    for known in ("a", "c"):
        with pytest.raises(ShardError, match=r"'other-vq'.*'some-vq'"):
            TokenShards([folder, other], same_tokens=[known * 64])


def test_classes_of_several_folders_are_united(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", replace(FORMAT, classes=("aardvark", "bee")), [[(4, 3)] * 2])
    shards = TokenShards([folder, other])
    assert shards.classes == ("aardvark", "ape", "bee")
    assert shards.labels.tolist() == [1 + number % 2 for number in ORDER] + [0, 2]
    assert [shards[8].label, shards[9].label, shards.record(9).label] == [0, 2, 2]
    unlabelled = write(tmp_path / "unlabelled", replace(FORMAT, classes=()), [[(4, 3)]], labels=0)
    assert TokenShards([folder, unlabelled]).labels.tolist()[-1] == -1
    numbered = write(tmp_path / "numbered", replace(FORMAT, classes=()), [[(4, 3)]], labels=1)
    with pytest.raises(ShardError, match="labels by number"):
        TokenShards([folder, numbered])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name, damage, said",
    [
        ("00001/codes-2x2.npy", cut, "truncated"),
        ("00001/items.npy", cut, "truncated"),
        ("00000/keys.txt", Path.unlink, "missing"),
        ("00002/codes-4x3.npy", flip, "content has changed"),
        ("index.json", cut, "cannot be read as a JSON file"),
        ("index.json", lambda path: path.write_text("[1]"), "not a file that"),
        ("index.json", lambda path: path.write_text(path.read_text().replace('"count": 2', '"count": 3')), "checksum"),
        ("index.json", Path.unlink, "holds no token shards"),
    ],
)
def test_damage_is_told(folder: Path, name: str, damage: Callable[[Path], object], said: str) -> None:
    damage(folder / name)
    with pytest.raises(ShardError, match=said) as error:
        TokenShards(folder, verify=True)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def resealed(folder: Path, **changes: object) -> None:
    write_json(folder / "index.json", {**read_json(folder / "index.json"), **changes})


@pytest.mark.parametrize(
    "key, value",
    [
        ("shards", 3),
        ("shards", [{"name": "../elsewhere"}]),
        ("skipped", None),
        ("skipped", -1),
        ("classes", {"a": 1}),
        ("kind", ["codes"]),
        ("tokenizer", "some-vq"),
        ("codebook_size", 10**4000),
        ("settings", []),
    ],
)
def test_an_index_with_anything_in_it_is_one_sentence(folder: Path, key: str, value: object) -> None:
    resealed(folder, **{key: value})
    with pytest.raises(ShardError) as error:
        TokenShards(folder)
    assert str(folder) in str(error.value)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"grid": [-4, 3]}, {"count": -2}, {"count": 2**70}, {"file": "../../codes-1x1.npy"}]
)
def test_what_an_index_may_claim_of_an_array_is_bounded(folder: Path, changes: dict[str, object]) -> None:
    shards = read_json(folder / "index.json")["shards"]
    shards[0]["arrays"][0].update(changes)
    resealed(folder, shards=shards)
    with pytest.raises(ShardError, match=r"shards\.0\.arrays\.0\."):
        TokenShards(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (3, 4, -3), }",
        b"{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999, 99999999999), }",
        b"(" * 5000,
        b"{'descr': '<u2', 'fortran_order': \xff",
        b"",
    ],
)
def test_a_hostile_header_is_one_sentence(folder: Path, header: bytes) -> None:
    path = folder / "00002/codes-4x3.npy"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    path.write_bytes(head.ljust(path.stat().st_size, b"\0"))
    shards = read_json(folder / "index.json")["shards"]
    shards[2]["arrays"][0]["bytes"] = path.stat().st_size
    resealed(folder, shards=shards)
    with pytest.raises(ShardError, match=r"codes-4x3\.npy: ") as error:
        TokenShards(folder).indices_of((4, 3)), TokenShards(folder)[5]
    assert "\n" not in str(error.value)


def test_latents_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, TokenFormat("latents", "bfloat16", 3, "vae", "b" * 64), [[(4, 3)]])
    path = folder / "00000/latents-4x3.npy"
    path.write_bytes(path.read_bytes()[:-2] + b"\x80\x7f")  # infinity
    with pytest.raises(ShardError, match="NaN or infinite"):
        TokenShards(folder)[0]


def test_a_pipe_in_place_of_a_file_does_not_block(folder: Path) -> None:
    for name in ("00000/items.npy", "index.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(ShardError):
            TokenShards(folder)
    assert read_shard(folder, 0) is None


def test_shards_without_captions_are_the_bytes_that_they_were(folder: Path) -> None:
    assert sha256_of(folder / "index.json") == GOLDEN_INDEX
    assert sha256_of(folder / "00000/shard.json") == GOLDEN_SHARD
    shards = TokenShards(folder)
    assert (shards.captioned, shards.captions(0), shards[3].record.captions) == (0, (), ())


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """Two shards; captions of three items of the first, two of them of one file."""
    told = [("a bee", "ein Bär\non two lines"), (), ("a bee", "ein Bär\non two lines"), ("x" * 4096,) * 64]
    for number, captions in enumerate([told, [()]]):
        tokens = [
            Token(replace(record(i), captions=each), pack(codes_of(i, (4, 3)), FORMAT))
            for i, each in enumerate(captions)
        ]
        write_shard(tmp_path, number, FORMAT, tokens, [])
    write_index(tmp_path, FORMAT, [report for n in range(2) if (report := read_shard(tmp_path, n))])
    return tmp_path


def test_captions(captioned: Path) -> None:
    shards = TokenShards(captioned, verify=True)
    two = ("a bee", "ein Bär\non two lines")
    assert [shards.captions(i) for i in range(5)] == [two, (), two, ("x" * 4096,) * 64, ()]
    assert (shards.captioned, shards[-2].captions) == (3, ("x" * 4096,) * 64)
    assert shards[2].record == replace(record(2), captions=two)
    assert [sorted(path.name for path in (captioned / name).glob("captions.*")) for name in ("00000", "00001")] == [
        ["captions.npy", "captions.txt"],
        [],
    ]
    places = np.load(captioned / "00000/captions.npy")
    assert (places[0] == places[2]).all()
    both = TokenShards([captioned, captioned])
    assert (both.captioned, both.captions(7)) == (6, two)


@pytest.mark.parametrize("place", [[-1, 5], [5, 1], [0, 10**6], [0, 64 * 4097 + 1]])
def test_places_of_captions_outside_their_file_are_refused(captioned: Path, place: list[int]) -> None:
    places = np.load(captioned / "00000/captions.npy")
    places[2] = place
    np.save(captioned / "00000/captions.npy", places)
    shards = TokenShards(captioned)
    assert shards.captions(1) == ()
    with pytest.raises(ShardError, match=r"captions\.txt: item 2's bytes are said to be .* of 262\d+;"):
        shards.captions(2)


def test_captions_that_are_damaged_or_gone_are_told(captioned: Path) -> None:
    path = captioned / "00000/captions.txt"
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with pytest.raises(ShardError, match=r"captions\.txt: cannot be read as a file of captions"):
        TokenShards(captioned).captions(0)
    with pytest.raises(ShardError, match="has changed"):
        TokenShards(captioned, verify=True)
    cut(path)
    assert read_shard(captioned, 0) is None
    with pytest.raises(ShardError, match=r"captions\.txt: has \d+ bytes"):
        TokenShards(captioned)


WITH_EMBEDDINGS = replace(FORMAT, embeddings=EmbeddingFormat(source="text:some/t5", width=3, sha256="b" * 64))


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """Two shards; sequences of three items of the first, two of them the same."""
    two = (np.full((2, 3), 1, np.float16), np.full((1, 3), 2, np.float16))
    given = [[two, (), two, (np.full((4, 3), 3, np.float16),)], [()]]
    for number, sequences in enumerate(given):
        tokens = [Token(record(i), pack(codes_of(i, (4, 3)), FORMAT), each) for i, each in enumerate(sequences)]
        write_shard(tmp_path, number, WITH_EMBEDDINGS, tokens, [])
    write_index(tmp_path, WITH_EMBEDDINGS, [report for n in range(2) if (report := read_shard(tmp_path, n))])
    return tmp_path


def test_embeddings(embedded: Path) -> None:
    shards = TokenShards(embedded, verify=True)
    found = [[tuple(x.shape) for x in shards.embeddings(i)] for i in range(5)]
    assert found == [[(2, 3), (1, 3)], [], [(2, 3), (1, 3)], [(4, 3)], []]
    assert [x.unique().tolist() for x in shards.embeddings(0)] == [[1], [2]]
    assert (shards.embedded, shards.embedding_format) == (3, WITH_EMBEDDINGS.embeddings)
    first, none = shards.embedding(0), shards.embedding(1)
    assert first is not None
    assert (first.dtype, first.shape, none) == (torch.float32, (2, 3), None)
    assert np.load(embedded / "00000/embeddings.npy").shape == (7, 3)
    plain = TokenShards(write(embedded / "plain", FORMAT, GRIDS))
    assert (plain.embedded, plain.embedding_format, plain.embedding(0)) == (0, None, None)


@pytest.mark.parametrize(
    "name, row, value, said",
    [
        ("embedding-places", 2, [0, 9], "item 2's sequences are said to be 0 to 9 of 3"),
        ("embedding-places", 2, [-1, 1], "item 2's sequences are said to be -1 to 1"),
        ("embedding-ends", 1, 9, "item 2's rows are said to be 2 to 9 of 7"),
        ("embedding-ends", 0, 5, "item 2's rows are said to be 5 to 3"),
        ("embeddings", 2, np.nan, "item 2's are NaN or infinite"),
    ],
)
def test_embeddings_that_were_changed_are_refused(embedded: Path, name: str, row: int, value: Any, said: str) -> None:
    path = embedded / f"00000/{name}.npy"
    array = np.load(path)
    array[row] = value
    np.save(path, array)
    shards = TokenShards(embedded)
    with pytest.raises(ShardError, match=re.escape(said)):
        shards.embeddings(2)
    assert shards.embeddings(1) == ()


@pytest.mark.parametrize("width", [0, 16385, 4])
def test_an_index_that_lies_about_the_width_of_embeddings(embedded: Path, width: int) -> None:
    resealed(embedded, embeddings={"source": "files", "width": width})
    with pytest.raises(ShardError, match=r"embeddings\.width|embeddings\.npy: holds .*\(7, 3\), the index says"):
        TokenShards(embedded).embedding(0)


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    format = replace(FORMAT, classes=(name, "ü"))
    token = Token(replace(record(0, 0), key=f"{name}/a.png"), pack(codes_of(0, (4, 3)), format))
    begin_folder(tmp_path, format.to_json())
    begin_folder(tmp_path, format.to_json())  # goes on: what was written is what is read
    write_shard(tmp_path, 0, format, [token], [FileFailure(key=name, reason=f"{name}: is bad")])
    report = read_shard(tmp_path, 0)
    assert report is not None
    write_index(tmp_path, format, [report])
    shards = TokenShards(tmp_path)
    assert (shards.classes, shards[0].key) == ((name, "ü"), f"{name}/a.png")
    assert json.loads((tmp_path / "errors.jsonl").read_bytes())["key"] == name


def test_an_index_that_lies_with_a_good_checksum(folder: Path) -> None:
    resealed(folder, codebook_size=8)
    with pytest.raises(ShardError, match="the codebook of 'some-vq' has 8"):
        TokenShards(folder)[0]
    resealed(folder, codebook_size="many")
    with pytest.raises(ShardError, match="cannot be read as a shard index: "):
        TokenShards(folder)
    resealed(folder, codebook_size=64, version=2)
    with pytest.raises(ShardError, match="version 2"):
        TokenShards(folder)
    resealed(folder, version=1, shards=[{"name": "00000"}])
    with pytest.raises(ShardError, match="cannot be read as a shard index: "):
        TokenShards(folder)


def test_unfinished_work_is_told(tmp_path: Path) -> None:
    begin_folder(tmp_path, FORMAT.to_json())
    with pytest.raises(ShardError, match=r"not finished.*--resume"):
        TokenShards(tmp_path)
    with pytest.raises(ShardError, match="no such folder"):
        TokenShards(tmp_path / "none")
    with pytest.raises(ShardError, match="no folder"):
        TokenShards([])


def test_incomplete_shards_are_no_entries(folder: Path) -> None:
    assert read_shard(folder, 0) is not None
    assert read_shard(folder, 9) is None
    cut(folder / shard_name(0) / "items.npy")
    assert read_shard(folder, 0) is None


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path, 0, FORMAT, [Token(record(0), pack(codes_of(0, (4, 3)), FORMAT))], [])
    assert list(tmp_path.iterdir()) == []


def test_raw_numpy_reads_them_and_errors_are_listed(folder: Path) -> None:
    raw = np.load(folder / "00002/codes-4x3.npy", mmap_mode="r")
    assert raw.dtype == np.uint16
    assert np.array_equal(raw[1], codes_of(6, (4, 3)).numpy())
    lines = (folder / "errors.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["bad.png"] * 3


def test_shards_travel_to_other_processes(folder: Path) -> None:
    shards = TokenShards(folder)
    assert shards[0].label == 0
    again = pickle.loads(pickle.dumps(shards))
    assert torch.equal(again[4].codes, shards[4].codes)


def test_an_empty_collection_of_tokens(tmp_path: Path) -> None:
    shards = TokenShards(write(tmp_path, FORMAT, [[]]))
    assert (len(shards), shards.grids, shards.labels.tolist()) == (0, {}, [])
