"""Embeddings beside tokens: of files, of a window's own sound, of captions; kept as they are computed."""

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from helpers.text_models import save_t5
from omnitok.data import TokenShards, write_image
from omnitok.data.index import build_index
from omnitok.data.log_mel import MELS, RATE, log_mel
from omnitok.errors import CheckpointError, OmnitokError, ShardError
from omnitok.hub.text_encoders import load_text_encoder
from omnitok.models.protocol import fingerprint
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.tokenization.embedding import load_encoder, open_source
from omnitok.tokenization.job import TokenizeJob, make_plan
from omnitok.tokenization.pipeline import tokenize_here
from omnitok.tokenization.settings import TokenizeSettings

from .conftest import contents, smooth

FPS = 8


def run(
    data: Path, source: str, tokenizer: OmniTokenizer, out: Path, parts: int = 1, workers: int = 0, **changes: Any
) -> TokenizeJob:
    collection = build_index(data, captions=source.startswith("text:"), embeddings=source == "files")
    embeddings, encoder = open_source(source, collection, "cpu")
    settings = TokenizeSettings(**{"resolution": 24, "frames": 5, "batch_size": 2, "shard_size": 2, **changes})
    plan = make_plan(collection, settings, tokenizer, "small", fingerprint(tokenizer), embeddings=embeddings)
    for part in reversed(range(parts)):
        work = TokenizeJob(plan, out, part, parts, resume=True)
        tokenize_here(work, tokenizer, workers, text_encoder=encoder)
        work.finish()
    return work


def by_key(shards: TokenShards) -> dict[tuple[str, int, int], torch.Tensor | None]:
    records = [shards.record(i) for i in range(len(shards))]
    return {(r.key, r.view, r.start): shards.embedding(i) for i, r in enumerate(records)}


def same_but_for_parts(data: Path, source: str, tokenizer: OmniTokenizer, out: Path, **changes: Any) -> None:
    """Parts and workers make the same bytes; a shard that is lost is made anew."""
    run(data, source, tokenizer, out.with_name("parts"), parts=2, workers=1, **changes)
    before = contents(out)
    assert contents(out.with_name("parts")) == before
    (out / "00000/embeddings.npy").write_bytes(b"cut")
    run(data, source, tokenizer, out, **changes)
    assert contents(out) == before


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A list that names embeddings of a (3, 4) and b (4,); beside c there are some of (2, 4), beside d none."""
    data = tmp_path / "data"
    for name in "abcdef":
        write_image(data / f"{name}.png", smooth(ord(name), 1, 24, 24)[:, 0])
    (data / "npy").mkdir()
    np.save(data / "npy/a.npy", np.arange(12.0).reshape(3, 4))
    np.save(data / "npy/b.npy", np.arange(4, dtype=np.int16))
    np.save(data / "c.embedding.npy", np.full((2, 4), 0.5, dtype=np.float32))
    np.save(data / "e.embedding.npy", np.zeros((2, 5)))
    np.save(data / "f.embedding.npy", np.full((1, 4), 1e6))
    (data / "list.csv").write_text("path,embedding\na.png,npy/a.npy\nb.png,npy/b.npy\nc.png,\nd.png,\n")
    return data


A, B, C = torch.arange(12.0).reshape(3, 4), torch.arange(4.0)[None], torch.full((2, 4), 0.5)


def test_embeddings_of_files(files: Path, tokenizer: OmniTokenizer, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    summary = run(files / "list.csv", "files", tokenizer, out, views=2).summary
    assert (summary.items, summary.embedded, summary.skipped, summary.captioned) == (8, 6, 0, 0)
    shards = TokenShards(out, verify=True)
    assert shards.embedding_format is not None
    assert (shards.embedding_format.source, shards.embedding_format.width, shards.embedded) == ("files", 4, 6)
    expected = {"a": A, "b": B, "c": C}
    for (key, _, _), found in by_key(shards).items():
        wanted = expected.get(key[0])
        assert found is wanted is None or (found is not None and wanted is not None and torch.equal(found, wanted))
    assert np.load(out / "00000/embeddings.npy").shape == (4, 4)  # once for both views
    for batch in shards.loader(8, seed=3):
        assert batch.embeddings is not None
        assert batch.embeddings.shape == (8, 3, 4)
        for i, row in zip(batch.indices, batch.embeddings, strict=True):
            own = shards.embedding(i)
            length = 0 if own is None else len(own)
            assert own is None or torch.equal(row[:length], own)
            assert row[length:].isnan().all()
    plan = json.loads((out / "plan.json").read_text())
    assert plan["embeddings"] == {"source": "files", "width": 4, "sha256": ""}
    same_but_for_parts(files / "list.csv", "files", tokenizer, out, views=2)


def test_files_in_a_folder_and_what_is_wrong_with_them(files: Path, tokenizer: OmniTokenizer, tmp_path: Path) -> None:
    (files / "npy/a.npy").rename(files / "a.embedding.npy")
    np.save(files / "b.embedding.npy", np.array([[0.0, np.nan, 0, 0]]))
    (files / "list.csv").unlink()
    shards_folder = tmp_path / "shards"
    run(files, "files", tokenizer, shards_folder)
    errors = [json.loads(line) for line in (shards_folder / "errors.jsonl").read_text().splitlines()]
    assert {row["key"]: row["reason"] for row in errors} == {
        "b.png": "b.png: its embeddings in b.embedding.npy: holds values that are not finite",
        "e.png": "e.png: its embeddings are of width 5, the first ones of the collection of 4",
        "f.png": "f.png: the embeddings reach 1e+06, beyond float16",
    }
    found = {key[0]: value is not None for (key, _, _), value in by_key(TokenShards(shards_folder)).items()}
    assert found == {"a": True, "c": True, "d": False}


def test_a_manifest_names_embeddings_too(files: Path) -> None:
    (files / "list.csv").rename(files / "manifest.csv")
    index = build_index(files, embeddings=True)
    found = [sample.read_embedding() for sample in index.images if sample.key in ("a.png", "c.png", "d.png")]
    assert [None if each is None else each.shape for each in found] == [(3, 4), (2, 4), None]
    assert {sample.embedding for sample in build_index(files).images} == {""}


def test_names_are_relative_to_the_list_and_may_be_anywhere(files: Path, tmp_path: Path) -> None:
    rows = [{"path": "data/a.png", "embedding": str(files / "npy/a.npy")}, {"path": "data/b.png", "embedding": 7}]
    rows += [
        {"path": str(files / "c.png"), "embedding": "data/npy/b.npy"},
        {"path": "data/d.png", "embedding": "x.npy"},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = build_index(tmp_path / "list.jsonl", embeddings=True)
    a, b, c, d = index.images
    assert [sample.read_embedding().shape for sample in (a, c)] == [(3, 4), (1, 4)]  # type: ignore[union-attr]
    assert b.error.endswith("list.jsonl, line 2: an embedding is the path of a .npy file, found '7'")
    with pytest.raises(OmnitokError, match=r"d\.png: its embeddings in x\.npy: no such file"):
        d.read_embedding()
    assert len({build_index(tmp_path / "list.jsonl", embeddings=asked).sha256() for asked in (True, False)}) == 2


def test_paths_from_the_working_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.parent)
    for source in ("data", "data/c.png", "data/list.csv"):
        found = {sample.key: sample.read_embedding() for sample in build_index(source, embeddings=True).images}
        assert found["c.png"] is not None
        assert source != "data/list.csv" or found["a.png"] is not None
    monkeypatch.chdir(files)
    found = {sample.key: sample.read_embedding() for sample in build_index("list.csv", embeddings=True).images}
    assert {key for key, value in found.items() if value is not None} == {"a.png", "b.png", "c.png"}


def test_nothing_has_embeddings(files: Path) -> None:
    (files / "empty").mkdir()
    shutil.copy(files / "d.png", files / "empty")
    with pytest.raises(OmnitokError, match="no file of the collection has embeddings: tables name them in"):
        open_source("files", build_index(files / "empty", embeddings=True), "cpu")


def test_folders_of_other_embeddings_are_not_read_together(
    files: Path, tokenizer: OmniTokenizer, tmp_path: Path
) -> None:
    run(files / "list.csv", "files", tokenizer, tmp_path / "one")
    np.save(files / "e.embedding.npy", np.zeros((2, 5)))
    run(files / "e.png", "files", tokenizer, tmp_path / "other")
    with pytest.raises(ShardError, match=r"other: has embeddings of 'files' of width 5, and .*one of 'files'"):
        TokenShards([tmp_path / "one", tmp_path / "other"])
    run(files / "d.png", "audio", tokenizer, tmp_path / "none")
    with pytest.raises(ShardError, match="cannot be read together"):
        TokenShards([tmp_path / "one", tmp_path / "none"])


# --------------------------------------------------------------------------------------------------------------- sound


def write_with_tone(path: Path, frames: int, begin: float | None) -> Path:
    """A video at 8 frames per second with a tone of 1 kHz from `begin` seconds on; None is no sound track."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt = 32, 24, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono") if begin is not None else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and begin is not None:
            times = np.arange(frames * RATE // FPS) / RATE
            tone = (np.sin(2000 * np.pi * times) * (times >= begin)).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    write_with_tone(tmp_path / "data/late.mkv", 20, 1.35)
    write_with_tone(tmp_path / "data/mute.mkv", 10, None)
    write_image(tmp_path / "data/still.png", smooth(0, 1, 24, 24)[:, 0])
    return tmp_path / "data"


def test_each_window_has_its_own_sound(videos: Path, tokenizer: OmniTokenizer, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    assert run(videos, "audio", tokenizer, out).summary.embedded == 4
    shards = TokenShards(out)
    found = by_key(shards)
    assert {key for key, value in found.items() if value is not None} == {("late.mkv", 0, 5 * k) for k in range(4)}
    for start in (0, 5, 10, 15):
        heard = found["late.mkv", 0, start]
        assert heard is not None
        edges = [(start + frame) / FPS for frame in (0, 1, 5)]  # a latent frame of one frame, and one of four
        assert torch.equal(heard, log_mel(videos / "late.mkv", edges).half().float())
        assert heard.shape == (8, MELS)
        is_loud = heard.max() > 0.5
        assert is_loud == (start >= 10)
    same_but_for_parts(videos, "audio", tokenizer, out)


@pytest.mark.parametrize("changes", [{"frames": 0}, {"frames": 6, "fps": 4.0}, {"frames": 7}])
def test_sound_has_as_many_frames_as_the_latents(
    videos: Path, tokenizer: OmniTokenizer, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(videos, "audio", tokenizer, tmp_path / "shards", **changes)
    shards = TokenShards(tmp_path / "shards")
    heard = {i: shards.embedding(i) for i in range(len(shards)) if shards[i].key == "late.mkv"}
    assert heard
    for i, embedding in heard.items():
        codes = shards[i].codes
        assert embedding is not None
        assert codes is not None
        assert len(embedding) == 4 * len(codes)


# ---------------------------------------------------------------------------------------------------------------- text


def test_captions_are_embedded(tokenizer: OmniTokenizer, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_t5(tmp_path / "t5")
    data = tmp_path / "data"
    for name in "abc":
        write_image(data / f"{name}.png", smooth(ord(name), 1, 24, 24)[:, 0])
    texts = ("a red dress", "a dress on light background")
    (data / "a.txt").write_text("\n".join(texts))
    (data / "b.txt").write_text(texts[1])
    out, source = tmp_path / "shards", f"text:{tmp_path / 't5'}"
    summary = run(data, source, tokenizer, out, views=2).summary
    assert (summary.embedded, summary.captioned) == (4, 4)
    shards, encoder = TokenShards(out, verify=True), load_text_encoder(tmp_path / "t5")
    alone = {text: encoder.encode([text])[0] for text in texts}
    for i in range(len(shards)):
        for text, found in zip(shards.captions(i), shards.embeddings(i), strict=True):
            assert torch.allclose(found, alone[text], atol=2e-3)
    for batch in (batch for loader in [shards.loader(2, seed=1)] * 4 for batch in loader):
        assert batch.embeddings is not None
        for text, row in zip(batch.captions, batch.embeddings, strict=True):
            there = row[~row[:, 0].isnan()]
            assert len(there) == len(alone.get(text, ()))
            assert not text or torch.allclose(there, alone[text], atol=2e-3)
    same_but_for_parts(data, source, tokenizer, out, views=2)
    assert shards.embedding_format is not None
    assert load_encoder(shards.embedding_format, "cpu") is not None
    with pytest.raises(CheckpointError, match=r"has weights .*, not 0"):
        load_encoder(shards.embedding_format.model_copy(update={"sha256": "0"}), "cpu")
