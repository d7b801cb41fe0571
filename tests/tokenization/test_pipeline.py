"""Shards hold what `encode` gives, and their bytes depend on nothing but the plan."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.processes import TIMEOUT
from omnitok import atomic
from omnitok.data import TokenShards, read_image, read_video
from omnitok.data.shard_format import FileFailure
from omnitok.data.transforms import fit_square
from omnitok.errors import MediaError, OmnitokError, ShardError
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.tokenization import pipeline
from omnitok.tokenization.job import Plan, TokenizeJob
from omnitok.tokenization.pipeline import tokenize_here

from .conftest import SMALL, contents, make_tokenizer, plan_of, smooth


def run(
    plan: Plan,
    tokenizer: OmniTokenizer,
    out: Path,
    part: int = 0,
    parts: int = 1,
    workers: int = 0,
    resume: bool = False,
) -> TokenizeJob:
    work = TokenizeJob(plan, out, part, parts, resume)
    tokenize_here(work, tokenizer, workers)
    work.finish()
    return work


@pytest.fixture(scope="module")
def whole(media: Path, tokenizer: OmniTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "shards"
    assert run(plan_of(media, tokenizer), tokenizer, out).summary.complete
    return out


def test_every_item_equals_encode(media: Path, tokenizer: OmniTokenizer, whole: Path) -> None:
    shards = TokenShards(whole, verify=True)
    assert shards.grids == {(3, 3): 10, (2, 3, 3): 1 + 2 + 2}
    assert shards.classes == ("a", "b", "c")
    keys: Counter[str] = Counter()
    for i in range(len(shards)):
        item, record = shards[i], shards.record(i)
        assert item.codes is not None
        path = media / item.key
        if record.fps is None:
            pixels = fit_square(read_image(path)[:, None], 24, "center_crop")[:, 0]
        else:
            frames = read_video(path)[:, record.start : record.start + 5]
            pixels = fit_square(frames, 24, "center_crop")
            assert record.start == 5 * keys[item.key]
        assert record.source_size == tuple(read_video(path).shape[2:])
        assert torch.equal(tokenizer.encode(pixels[None]).codes[0], item.codes)
        assert record.size == (pixels.shape[1] if pixels.ndim == 4 else 1, 24, 24)
        assert shards.classes[item.label] == item.key[0]
        keys[item.key] += 1
    assert keys["c/2.mp4"] == 2
    assert (shards.skipped, (whole / "errors.jsonl").read_text().count("\n")) == (2, 2)
    shards.check_tokenizer("small", shards.tokenizer_sha256)


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_ahead_changes_nothing(
    media: Path, tokenizer: OmniTokenizer, whole: Path, tmp_path: Path, workers: int
) -> None:
    summary = run(plan_of(media, tokenizer), tokenizer, tmp_path, workers=workers).summary
    assert contents(tmp_path) == contents(whole)
    assert (summary.items, summary.skipped, summary.shards, summary.encoded) == (15, 2, 4, 15)
    assert summary.limiting_stage in ("reading", "encoding", "writing")
    assert 0 < summary.encoder_share <= 1


def test_parts_make_the_same_bytes(media: Path, tokenizer: OmniTokenizer, whole: Path, tmp_path: Path) -> None:
    plan = plan_of(media, tokenizer)
    assert not run(plan, tokenizer, tmp_path, 1, 2).summary.complete
    with pytest.raises(ShardError, match="not finished"):
        TokenShards(tmp_path)
    assert run(plan, tokenizer, tmp_path, 0, 2).summary.complete
    assert contents(tmp_path) == contents(whole)


def test_resuming_makes_the_same_bytes(media: Path, tokenizer: OmniTokenizer, whole: Path, tmp_path: Path) -> None:
    """From every state that a killed process can leave: some shards, and one half-written under a hidden name."""
    plan = plan_of(media, tokenizer)
    for lost in ([0, 1, 2, 3], [1], [3], []):
        out = tmp_path / f"lost{lost}"
        shutil.copytree(whole, out)
        (out / "index.json").unlink()
        for shard in lost:
            # No process has that number, so it counts as killed.
            shutil.move(out / f"0000{shard}", out / f".0000{shard}.{atomic._HOST}-99999999-abcdef.partial")
        summary = run(plan, tokenizer, out, resume=True).summary
        assert contents(out) == contents(whole)
        assert (summary.resumed, summary.items, summary.skipped) == (4 - len(lost), 15, 2)
    (out / "00002/items.npy").write_bytes(b"cut")  # a disk that lost it
    assert run(plan, tokenizer, out, resume=True).summary.resumed == 3
    assert contents(out) == contents(whole)


def test_captions_are_kept_and_change_nothing_else(
    media: Path, tokenizer: OmniTokenizer, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(media, tmp_path / "media")
    (tmp_path / "media/b/1.txt").write_bytes(b"\xff")
    plan = plan_of(tmp_path / "media", tokenizer, captions=True)
    assert {**plan.to_json(), "captions": None} == {**plan_of(media, tokenizer).to_json(), "captions": None}
    out = tmp_path / "out"
    summary = run(plan, tokenizer, out).summary
    shards = TokenShards(out, verify=True)
    found = {i: shards.captions(i) for i in range(len(shards)) if shards.captions(i)}
    assert [shards[i].key for i in found] == ["a/0.png", "c/2.mp4", "c/2.mp4"]
    assert list(found.values()) == [("an a", "another a"), ("a video",), ("a video",)]
    assert (summary.captioned, shards.captioned, summary.skipped, shards.skipped) == (3, 3, 3, 3)
    assert "b/1.png: its captions in 1.txt: cannot be read" in (out / "errors.jsonl").read_text()
    assert str(tmp_path) not in (out / "errors.jsonl").read_text()
    before, after = contents(whole), contents(out)
    shared = {name for name in before if name.startswith(("00000/", "00002/")) and "shard.json" not in name}
    assert len(shared) == 3 + 4
    assert all(before[name] == after[name] for name in shared)

    for part in (1, 0):
        run(plan, tokenizer, tmp_path / "parts", part, 2, workers=part)
    assert contents(tmp_path / "parts") == after
    (out / "00000/captions.npy").write_bytes(b"cut")
    assert run(plan, tokenizer, out, resume=True).summary.captioned == 3
    assert contents(out) == after
    with pytest.raises(ShardError, match="was begun with captions True, not None"):
        TokenizeJob(plan_of(tmp_path / "media", tokenizer), out, resume=True)


def test_a_bad_file_changes_no_other_group(media: Path, tokenizer: OmniTokenizer, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(media, tmp_path / "media")
    (tmp_path / "media/a/2.png").write_bytes(b"junk")
    run(plan_of(tmp_path / "media", tokenizer), tokenizer, tmp_path / "out")
    before, after = contents(whole), contents(tmp_path / "out")
    changed = {name.split("/")[0] for name in before if before[name] != after.get(name)}
    assert changed == {"00000", "index.json", "errors.jsonl"}
    assert "media" not in (tmp_path / "out/errors.jsonl").read_text()  # wherever the collection lies


def test_views(media: Path, tokenizer: OmniTokenizer, whole: Path, tmp_path: Path) -> None:
    plan = plan_of(media, tokenizer, views=4, seed=3)
    run(plan, tokenizer, tmp_path)
    shards, plain = TokenShards(tmp_path), TokenShards(whole)
    by_place = {(r.key, r.start): plain[i].codes for i in range(len(plain)) for r in [plain.record(i)] if r.view == 0}
    records = [shards.record(i) for i in range(len(shards))]
    assert Counter(r.view for r in records if r.fps is None) == {k: 10 for k in range(4)}
    for i, record in enumerate(records):
        codes = shards[i].codes
        if record.view == 0:
            assert torch.equal(codes, by_place[record.key, record.start])
            continue
        frames = read_video(media / record.key)[:, record.start : record.start + record.size[0]]
        top, left, height, width = record.crop
        pixels = fit_square(frames[..., top : top + height, left : left + width], 24, "squash")
        pixels = pixels.flip(-1) if record.flip else pixels
        pixels = pixels.squeeze(1) if record.fps is None else pixels
        assert torch.equal(tokenizer.encode(pixels[None]).codes[0], codes)
    assert {record.flip for record in records} == {False, True}
    assert len({record.crop for record in records}) > 12
    assert {record.start % 5 for record in records if record.view and record.fps} - {0}


def test_sizes_as_they_are(media: Path, tokenizer: OmniTokenizer, tmp_path: Path) -> None:
    run(plan_of(media, tokenizer, resolution=None), tokenizer, tmp_path)
    shards = TokenShards(tmp_path)
    assert set(shards.grids) == {(3, 4), (4, 4), (5, 4), (2, 4, 6)}
    for i in range(len(shards)):
        item = shards[i]
        if item.codes.ndim == 2:
            pixels = read_image(media / item.key)[None]
            assert torch.equal(tokenizer.encode(pixels).codes[0], item.codes)
            assert tokenizer.decode_codes(item.codes[None], item.size).shape == pixels.shape


def test_pictures_of_odd_sizes_do_not_pile_up(
    media: Path, tokenizer: OmniTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnitok.tokenization.pipeline.WAITING_BYTES", 0)  # each goes at once
    monkeypatch.setattr(pipeline, "BATCH_BYTES", 1)
    run(plan_of(media, tokenizer, resolution=None), tokenizer, tmp_path)
    assert len(TokenShards(tmp_path)) == 15


@pytest.mark.parametrize("streamable", [True, False])
def test_whole_clips_are_streamed(
    media: Path, tmp_path: Path, streamable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_tokenizer(
        SMALL if streamable else replace(SMALL, temporal_convolution_layout="released", temporal_window=None)
    )
    monkeypatch.setattr(pipeline, "CHUNK_FRAMES", 7)
    run(plan_of(media, tokenizer, frames=0, views=2), tokenizer, tmp_path)
    shards = TokenShards(tmp_path)
    assert {grid for grid in shards.grids if len(grid) == 3} == {(3, 3, 3), (4, 3, 3), (5, 3, 3)}
    for i in range(len(shards)):
        item, record = shards[i], shards.record(i)
        if record.fps is not None and record.view == 0:
            pixels = fit_square(read_video(media / item.key), 24, "center_crop")[None]
            assert torch.equal(tokenizer.encode(pixels).codes[0], item.codes)
            assert record.size[0] == pixels.shape[2]


@pytest.mark.parametrize("error", [MediaError("the video is truncated"), ZeroDivisionError("of a parser")])
def test_a_clip_that_breaks_off_counts_for_nothing(
    media: Path, tokenizer: OmniTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(pipeline, "BATCH_BYTES", 1)  # its first windows are encoded before the damage shows
    plain = pipeline.VideoReader.__iter__

    def breaking(self: pipeline.VideoReader) -> object:
        for number, frame in enumerate(plain(self)):
            if number == 11:
                raise error
            yield frame

    monkeypatch.setattr(pipeline.VideoReader, "__iter__", breaking)
    run(plan_of(media, tokenizer), tokenizer, tmp_path)
    shards = TokenShards(tmp_path)
    assert {shards[i].key for i in range(len(shards)) if shards[i].codes.ndim == 3} == {"c/0.mp4", "c/1.mp4"}
    assert shards.skipped == 3


def test_latents_are_the_mean_of_the_posterior(media: Path, vae: OmniTokenizer, tmp_path: Path) -> None:
    run(plan_of(media, vae, latent_dtype="bfloat16"), vae, tmp_path)
    shards = TokenShards(tmp_path)
    assert (shards.kind, shards.size) == ("latents", 8)
    item = shards[0]
    pixels = fit_square(read_image(media / item.key)[:, None], 24, "center_crop")[:, 0]
    mean = vae.encode(pixels[None]).posterior.mean[0].detach()
    assert torch.equal(item.latents, mean.bfloat16().float())


def test_too_short_clips_are_listed(tokenizer: OmniTokenizer, tmp_path: Path) -> None:
    from omnitok.data import write_video

    write_video(tmp_path / "in/short.mp4", smooth(0, 4, 32, 32), fps=10)
    work = run(plan_of(tmp_path / "in", tokenizer), tokenizer, tmp_path / "out")
    assert work.summary.errors == [FileFailure(key="short.mp4", reason="short.mp4: 4 frames, at least 5 are needed")]
    assert len(TokenShards(tmp_path / "out")) == 0


def test_what_is_there_is_not_overwritten(media: Path, tokenizer: OmniTokenizer, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="holds shards already; --resume"):
        TokenizeJob(plan_of(media, tokenizer), whole)
    with pytest.raises(ShardError, match=r"begun with settings\.resolution 24, not 32"):
        TokenizeJob(plan_of(media, tokenizer, resolution=32), whole, resume=True)
    other = make_tokenizer(replace(SMALL, codebook_size=32))
    with pytest.raises(ShardError, match="begun with codebook_size 64, not 32"):
        TokenizeJob(plan_of(media, other), whole, resume=True)
    shutil.copytree(media / "a", tmp_path / "a")
    with pytest.raises(ShardError, match="begun with"):
        TokenizeJob(plan_of(tmp_path, tokenizer), whole, resume=True)


def test_a_full_disk_leaves_no_half_shard(
    media: Path, tokenizer: OmniTokenizer, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    plan, save, calls = plan_of(media, tokenizer), np.save, []

    def full(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(plan, tokenizer, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000", "plan.json"]
    monkeypatch.undo()
    run(plan, tokenizer, tmp_path, resume=True)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the patch has to reach the worker")
@pytest.mark.filterwarnings("ignore:unclosed")  # torch raises wherever the program is, just after an open for one
def test_a_worker_that_is_killed_is_one_sentence(
    media: Path, tokenizer: OmniTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, own = pipeline.read_group, os.getpid()

    def killed(plan: Plan, group: int) -> object:
        if group == 4 and os.getpid() != own:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(plan, group)

    monkeypatch.setattr(pipeline, "read_group", killed)
    plan = plan_of(media, tokenizer)
    with pytest.raises(OmnitokError, match="ended from outside"):
        run(plan, tokenizer, tmp_path, workers=2)
    monkeypatch.undo()
    assert run(plan, tokenizer, tmp_path, resume=True).summary.complete


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_refuses_is_one_sentence(
    media: Path, tokenizer: OmniTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("OMNITOK_MAX_PIXELS", "many")
    with pytest.raises(OmnitokError, match=r"^the environment variable OMNITOK_MAX_PIXELS .* found 'many'$"):
        run(plan_of(media, tokenizer), tokenizer, tmp_path, workers=workers)


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, 24, 90])
def test_too_few_open_files_are_one_sentence(media: Path, tmp_path: Path, count: int) -> None:
    """It used to hang, or to print a traceback of torch's."""
    resource = pytest.importorskip("resource")
    command = [sys.executable, "-m", "omnitok", "tokenize", str(media), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--resolution", "24", "--frames", "5", "--batch-size", "1", "--workers", "16"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"may open {count} files" in done.stderr
