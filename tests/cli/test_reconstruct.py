import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image

from helpers.processes import TIMEOUT, full_disk, heed_interrupts
from omnitok.cli import main
from omnitok.data import VideoReader, read_image, read_video
from omnitok.models.tokenizer import OmniTokenizer
from omnitok.tokenization import files

Make = Callable[..., Path]
KEYS = ["input", "output", "width", "height", "frames", "tokens", "bits_per_pixel", "psnr", "ssim", "seconds"]


def reconstruct(capsys: pytest.CaptureFixture[str], *line: object) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, rows and stderr."""
    code = main(["reconstruct", *map(str, line), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def test_a_folder_of_pictures_and_clips(
    vq_folder: Path, tmp_path: Path, make_picture: Make, make_clip: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_picture(tmp_path / "in/a.jpg", 41, 30)
    make_clip(tmp_path / "in/sub/b.mp4", frames=10)
    make_clip(tmp_path / "in/c.gif", frames=5)
    out = tmp_path / "out"
    code, rows, _ = reconstruct(capsys, tmp_path / "in", "--model", vq_folder, "-o", out)
    assert code == 0
    assert [list(row) for row in rows] == [KEYS] * 3
    picture, gif, clip = rows
    assert Path(picture["output"]) == out / "a.png"
    assert (picture["width"], picture["height"], picture["frames"], picture["tokens"]) == (41, 30, 1, 6 * 4)
    assert picture["bits_per_pixel"] == pytest.approx(24 * 6 / (41 * 30), abs=1e-6)  # 64 codes: 6 bits
    assert read_image(out / "a.png").shape == (3, 30, 41)
    assert Path(clip["output"]) == out / "sub/b.mp4"
    assert (clip["frames"], clip["tokens"]) == (10, 4 * 6 * 4)
    assert read_video(out / "sub/b.mp4").shape == (3, 10, 32, 48)
    assert Path(gif["output"]) == out / "c.gif"
    assert read_video(out / "c.gif").shape == (3, 5, 32, 48)


def test_figures_are_those_of_the_library(
    vq_folder: Path, tmp_path: Path, make_picture: Make, make_clip: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    from omnitok.metrics.psnr import psnr
    from omnitok.metrics.ssim import ssim

    picture, clip = make_picture(tmp_path / "a.png", 50, 40), make_clip(tmp_path / "b.mp4", frames=11)
    _, rows, _ = reconstruct(capsys, picture, clip, "--model", vq_folder, "-o", tmp_path / "out")
    model = OmniTokenizer.from_pretrained(vq_folder)
    for row, original in zip(rows, (read_image(picture), read_video(clip)), strict=True):
        with torch.no_grad():
            result = model(original[None]).clamp(-1, 1)
        assert row["psnr"] == pytest.approx(psnr(original[None], result), abs=1e-3)
        assert row["ssim"] == pytest.approx(ssim(original[None], result), abs=1e-4)
        if original.ndim == 3:
            written = read_image(row["output"])
            assert (written - result[0]).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("folder", ["vq_folder", "vae_folder"])
def test_tiles(
    folder: str, request: pytest.FixtureRequest, tmp_path: Path, make_picture: Make, make_clip: Make, capsys: Any
) -> None:
    model = request.getfixturevalue(folder)
    picture, clip = make_picture(tmp_path / "a.png", 150, 100), make_clip(tmp_path / "b.mp4", 6, 150, 100)
    line = (picture, clip, "--model", model, "-o", tmp_path / "out")
    _, plain, _ = reconstruct(capsys, *line)
    code, tiled, _ = reconstruct(capsys, *line, "--tile", 64)
    assert code == 0
    for a, b in zip(plain, tiled, strict=True):
        assert {key: a[key] for key in KEYS[:7]} == {key: b[key] for key in KEYS[:7]}
        assert a["psnr"] == pytest.approx(b["psnr"], abs=0.5)
    if folder == "vae_folder":
        assert tiled[0]["bits_per_pixel"] == pytest.approx(19 * 13 * 8 * 16 / (150 * 100), abs=1e-5)


def test_side_by_side_and_one_named_output(
    vq_folder: Path, tmp_path: Path, make_picture: Make, make_clip: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture(tmp_path / "a.png", 40, 30)
    result = tmp_path / "deep/r.webp"
    assert reconstruct(capsys, picture, "--model", vq_folder, "--side-by-side", "-o", result)[0] == 0
    with Image.open(result) as image:
        assert image.size == (80, 30)
    clip = make_clip(tmp_path / "b.mp4")
    result = tmp_path / "r.webm"
    _, (row,), _ = reconstruct(capsys, clip, "--model", vq_folder, "--side-by-side", "-o", result)
    assert (row["width"], row["output"]) == (48, str(result))
    both = read_video(result)
    assert both.shape == (3, 10, 32, 96)
    assert (both[..., :48] - read_video(clip)).abs().mean() < 0.1  # the original is on the left


def test_sound_is_kept_and_fps_thins(
    vq_folder: Path, tmp_path: Path, make_clip_with_sound: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip_with_sound(tmp_path / "a.mp4")
    out = tmp_path / "out"
    _, (row,), _ = reconstruct(capsys, clip, "--model", vq_folder, "-o", out, "--fps", 5)
    assert row["frames"] == 5
    with VideoReader(out / "a.mp4") as reader:
        assert reader.has_audio
        assert reader.fps == pytest.approx(5)
    with av.open(str(out / "a.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == "aac"


def test_a_model_that_cannot_stream_says_so(
    whole_folder: Path, tmp_path: Path, make_clip: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=7)
    code, (row,), said = reconstruct(capsys, clip, "--model", whole_folder, "-o", tmp_path / "out")
    assert code == 0
    assert row["frames"] == 7
    assert "cannot stream" in said


def test_inputs_are_not_overwritten(
    vq_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture(tmp_path / "a.png")
    before = picture.read_bytes()
    assert main(["reconstruct", str(picture), "--model", str(vq_folder), "-o", str(picture)]) == 2
    code, (row,), _ = reconstruct(capsys_cleared(capsys), picture, "--model", vq_folder, "-o", tmp_path)
    assert code == 0
    assert row["output"] == str(tmp_path / "a.png.png")
    assert picture.read_bytes() == before


def capsys_cleared(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    capsys.readouterr()
    return capsys


def test_pictures_and_clips_of_one_pixel(
    vq_folder: Path, tmp_path: Path, make_picture: Make, make_clip: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, clip = make_picture(tmp_path / "a.png", 1, 1), make_clip(tmp_path / "b.gif", 3, 1, 2)
    code, rows, _ = reconstruct(capsys, picture, clip, "--model", vq_folder, "-o", tmp_path / "out")
    assert code == 0
    assert [row["ssim"] for row in rows] == [None, None]  # smaller than its window
    assert [row["frames"] for row in rows] == [1, 3]


def test_the_table_is_aligned(
    vq_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [make_picture(tmp_path / name) for name in ("a.png", "much_longer_name.png")]
    (tmp_path / "bad.png").write_bytes(b"bad")
    line = [
        "reconstruct",
        *map(str, names),
        str(tmp_path / "bad.png"),
        "--model",
        str(vq_folder),
        "-o",
        str(tmp_path / "out"),
    ]
    assert main(line) == 1
    head, *rows, failed, mean, closing = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in (head, *rows, mean)}) == 1
    assert mean.split()[0] == "mean"
    assert failed.split() == [str(tmp_path / "bad.png"), "failed"]
    assert str(tmp_path / "out") in closing


def test_one_bad_file_among_many(
    vq_folder: Path,
    tmp_path: Path,
    make_picture: Make,
    make_clip: Make,
    make_sound: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "in"
    good = [make_picture(folder / "good.png"), make_clip(folder / "good_too.mp4")]
    truncated = make_picture(folder / "truncated.png", 200, 200)
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    short = make_clip(folder / "truncated.mp4", 40)
    short.write_bytes(short.read_bytes()[: short.stat().st_size // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.mp4").write_text("this is no clip at all\n" * 50)
    sound = make_sound(folder / "sound.mp4")
    no_frames = folder / "no_frames.avi"
    with av.open(str(no_frames), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    (tmp_path / "without_media").mkdir()
    missing = tmp_path / "missing.png"
    bad = [truncated, short, folder / "empty.jpg", folder / "text.mp4", sound, no_frames]
    line = (missing, *bad, tmp_path / "without_media", *good, "--model", vq_folder, "-o", tmp_path / "out")
    code, rows, said = reconstruct(capsys, *line)
    assert code == 1
    failed = {Path(row["input"]): row for row in rows if "error" in row}
    assert set(failed) == {missing, *bad, tmp_path / "without_media"}
    for path, row in failed.items():
        assert list(row) == ["input", "error"]
        assert str(path) in row["error"]
        assert row["error"] in said
    assert {Path(row["input"]) for row in rows if "psnr" in row} == set(good)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.png", "good_too.mp4"]
    assert "internal error" not in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_unreadable_file_and_unwritable_folder(
    vq_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture(tmp_path / "a.png")
    picture.chmod(0)
    code, (row,), _ = reconstruct(capsys, picture, "--model", vq_folder, "-o", tmp_path / "out")
    assert (code, list(row)) == (1, ["input", "error"])
    picture.chmod(0o600)
    (tmp_path / "locked").mkdir(mode=0o500)
    code, (row,), _ = reconstruct(capsys, picture, "--model", vq_folder, "-o", tmp_path / "locked")
    assert (code, list(row)) == (1, ["input", "error"])


def test_output_folder_that_is_a_file(
    vq_folder: Path, tmp_path: Path, make_picture: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = make_picture(tmp_path / "a.png")
    (tmp_path / "taken").write_text("mine")
    code, (row,), said = reconstruct(capsys, picture, "--model", vq_folder, "-o", tmp_path / "taken")
    assert code == 1
    assert "taken" in row["error"]
    assert "internal error" not in said
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    "verb, name, limit", [("reconstruct", "a.png", 2000), ("reconstruct", "a.mp4", 2000), ("encode", "a.png", 500)]
)
def test_a_write_that_fails_leaves_nothing(
    verb: str,
    name: str,
    limit: int,
    vq_folder: Path,
    tmp_path: Path,
    make_picture: Make,
    make_clip: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make = make_picture if name.endswith("png") else make_clip
    source = make(tmp_path / name, **({"width": 300, "height": 200} if name.endswith("png") else {"frames": 20}))
    line = [verb, str(source), "--model", str(vq_folder), "-o", str(tmp_path / "out")]
    with full_disk(limit):
        assert main(line) == 1
    said = capsys.readouterr().err
    assert f"out{os.sep}a" in said
    assert "too large" in said
    assert "Traceback" not in said
    assert "internal error" not in said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stopped_leaves_nothing_half_written(
    number: signal.Signals, vq_folder: Path, tmp_path: Path, make_clip: Make
) -> None:
    clip = make_clip(tmp_path / "0.mp4", 60, 64, 64)
    clips = [clip]
    for i in range(1, 150):  # work for long enough, however late this test gets its turn to interrupt
        clips.append(tmp_path / f"{i}.mp4")
        os.link(clip, clips[-1])
    out = tmp_path / "out"
    line = ["reconstruct", *map(str, clips), "--model", str(vq_folder), "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "omnitok", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    try:
        deadline = time.monotonic() + TIMEOUT
        while (
            not (out.is_dir() and list(out.glob(".*")) and len(list(out.glob("[!.]*"))) > 1)  # so the first row is made
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        process.send_signal(number)
        table, said = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert "Traceback" not in said
    assert process.returncode == 128 + number
    assert ("interrupted" if number == signal.SIGINT else "terminated") in said
    assert list(out.glob(".*")) == []
    assert len(list(out.iterdir())) < len(clips)
    assert "PSNR dB" in table.splitlines()[0], "the rows of finished files are told"


def _peak_kilobytes(line: list[str], folder: Path) -> int:
    code = (
        "import sys; from omnitok.cli import main; code = main(sys.argv[1:])\n"
        "status = dict(line.split(':') for line in open('/proc/self/status'))\n"  # ru_maxrss counts the parent's too
        "print(status['VmHWM'].split()[0]); sys.exit(code)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *line], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_length_of_a_clip(vq_folder: Path, tmp_path: Path, make_clip: Make) -> None:
    """Four times the frames, which would be 44 MB more if they were kept, and the same peak within 5 %."""
    peaks = []
    for frames in (64, 256):  # the encoder of the result holds some 50 back
        clip = make_clip(tmp_path / f"{frames}.mp4", frames, 160, 120)
        peaks.append(_peak_kilobytes(["reconstruct", str(clip), "--model", str(vq_folder)], tmp_path))
    assert peaks[1] < 1.05 * peaks[0]


def test_an_image_beyond_the_bound_is_refused_before_it_is_read(
    vq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    tracemalloc.start()
    code, (row,), _ = reconstruct(capsys, tmp_path / "a.png", "--model", vq_folder, "-o", tmp_path / "out")
    assert code == 1
    assert "OMNITOK_MAX_PIXELS" in row["error"]
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_large_images_go_in_tiles(
    vq_folder: Path,
    tmp_path: Path,
    make_picture: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(files, "_WHOLE_PIXELS", 100)
    monkeypatch.setattr(files, "_TILE", 64)
    line = (make_picture(tmp_path / "a.png", 150, 100), "--model", vq_folder, "-o", tmp_path / "out")
    _, (untold,), _ = reconstruct(capsys, *line)
    _, (told,), _ = reconstruct(capsys, *line, "--tile", 64)
    assert untold["psnr"] == told["psnr"]


@pytest.mark.parametrize("verb", ["reconstruct", "encode", "tokenize"])
def test_a_tokenizer_of_images_says_so_of_videos(
    verb: str,
    vq_folder: Path,
    tmp_path: Path,
    make_picture: Callable[..., Path],
    make_clip: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = OmniTokenizer.from_pretrained(vq_folder)
    tokenizer.trained_on = ("image",)
    model = str(tokenizer.save_pretrained(tmp_path / "model"))
    inputs = [make_picture(tmp_path / "a.png"), make_clip(tmp_path / "b.mp4"), make_clip(tmp_path / "c.mp4")]
    line = [verb, "--model", model, "-o", str(tmp_path / "out")]
    more = ["--frames", "5", "--workers", "0"] if verb == "tokenize" else []
    assert main([*line, *more, str(inputs[0])]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main([*line[:-1], str(tmp_path / "videos"), *more, *map(str, inputs)]) == 0
    assert capsys.readouterr().err.count("warning: this tokenizer was trained on images only") == 1
