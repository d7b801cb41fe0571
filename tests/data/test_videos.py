"""Clips: times, colours, rotation, damage; all files are made here."""

import os
import subprocess
import sys
import tracemalloc
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from helpers.processes import TIMEOUT, full_disk
from omnitok.data import VideoReader, VideoWriter, detect_modality, read_video, write_image, write_video
from omnitok.data.image import from_uint8
from omnitok.data.video_writer import few_colors
from omnitok.errors import MediaError


def grey_clip(levels: list[int], height: int = 32, width: int = 48) -> torch.Tensor:
    """(3, T, H, W), every frame of one grey level."""
    values = torch.tensor(levels, dtype=torch.float32) / 127.5 - 1
    return values.view(1, -1, 1, 1).expand(3, -1, height, width)


def moving_clip(frames: int, height: int = 96, width: int = 128) -> torch.Tensor:
    """(3, T, H, W) of smooth colours with a bright square that moves to the right."""
    rows = torch.linspace(-1, 1, height).view(1, 1, height, 1)
    columns = torch.linspace(-1, 1, width).view(1, 1, 1, width)
    times = torch.linspace(-1, 1, frames).view(1, frames, 1, 1)
    clip = torch.cat(torch.broadcast_tensors(rows * 0.7, columns * 0.7, times * 0.5 + 0 * rows * columns)[:3], 0)
    clip = clip.expand(3, frames, height, width).clone() if clip.shape[0] == 3 else clip
    for t in range(frames):
        left = 8 + (t * 2) % (width - 48)
        clip[:, t, 20:52, left : left + 32] = 0.8
    return clip


def levels_of(clip: torch.Tensor) -> list[int]:
    """Grey level at the centre of every frame, 0 to 255."""
    height, width = clip.shape[-2:]
    return ((clip[1, :, height // 2, width // 2] + 1) * 127.5).round().int().tolist()


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).pow(2).mean()))


def write_timed(path: Path, levels: list[int], times_ms: list[int], **tags: int) -> None:
    """An H.264 clip whose frames have these times in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for level, time in zip(levels, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_with_sound(path: Path, seconds: float = 2.0, codec: str = "aac", video: bool = True) -> None:
    """A tone, with a small clip beside it."""
    rate = 48000
    with av.open(str(path), "w") as container:
        if video:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream(codec, rate=rate)
        if video:
            for index in range(int(seconds * 10)):
                picture = av.VideoFrame.from_ndarray(np.full((32, 48, 3), index * 5, np.uint8), format="rgb24")
                picture.pts, picture.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        tone = np.sin(np.arange(int(seconds * rate)) * 0.05).astype(np.float32)
        for begin in range(0, len(tone), 960):
            block = np.ascontiguousarray(np.repeat(tone[None, begin : begin + 960], 2, 0))
            samples = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            samples.sample_rate, samples.pts, samples.time_base = rate, begin, Fraction(1, rate)
            container.mux(sound.encode(samples))
        container.mux(sound.encode())


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


# --- writing and reading back ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "least"), [(".mp4", 38), (".mov", 38), (".mkv", 38), (".webm", 33), (".gif", 27)])
def test_round_trip(tmp_path: Path, suffix: str, least: float) -> None:
    x = moving_clip(20)
    write_video(tmp_path / f"a{suffix}", x, fps=25)
    with VideoReader(tmp_path / f"a{suffix}") as reader:
        assert (reader.width, reader.height, reader.frame_count, reader.has_audio) == (128, 96, 20, False)
        assert reader.fps == pytest.approx(25, rel=0.01)
        y = torch.stack(list(reader), dim=1)
    assert y.shape == x.shape
    assert y.dtype == torch.float32
    assert psnr(x, y) > least
    assert detect_modality(tmp_path / f"a{suffix}") == "video"
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


def test_mp4_is_what_browsers_play(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_clip(5), fps=30000 / 1001)
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(30000, 1001)
        assert (frame.colorspace, frame.color_trc, frame.color_primaries, frame.color_range) == (1, 1, 1, 1)


def test_a_gif_of_more_colors_than_fit_keeps_flat_ones(tmp_path: Path) -> None:
    """Its palette is chosen from few colors, which takes a fraction of the time; a color by itself is one of them."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (200, 150, 3), dtype=torch.uint8)
    pixels[:160] = torch.tensor([201, 13, 77], dtype=torch.uint8)
    pixels[:20] = torch.tensor([255, 255, 255], dtype=torch.uint8)
    few = few_colors(pixels.numpy())
    assert len(np.unique(few[160:].reshape(-1, 3), axis=0)) < len(torch.unique(pixels[160:].reshape(-1, 3), dim=0))
    assert np.abs(few.astype(int) - pixels.numpy()).max() < 8
    write_video(tmp_path / "a.gif", from_uint8(pixels)[:, None], fps=10)
    written = (read_video(tmp_path / "a.gif")[:, 0, :160] + 1) * 127.5
    assert (written - pixels[:160].permute(2, 0, 1)).abs().max() <= 3


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ""])
def test_odd_sizes(tmp_path: Path, suffix: str) -> None:
    x = moving_clip(3)[..., :61, :83]
    write_video(tmp_path / f"a{suffix}", x, fps=10)
    if not suffix:
        assert (tmp_path / "a" / "00002.png").exists()
        return
    y = read_video(tmp_path / f"a{suffix}")
    assert y.shape[-2:] == ((62, 84) if suffix == ".mp4" else (61, 83))
    assert psnr(x, y[..., :61, :83]) > 25


def test_one_pixel_clip(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", grey_clip([128, 128], 1, 1), fps=10)
    assert read_video(tmp_path / "a.mp4").shape == (3, 2, 2, 2)


@pytest.mark.parametrize("name", ["shots/", "shots"])
def test_folder_of_images(tmp_path: Path, name: str) -> None:
    x = moving_clip(3)
    write_video(f"{tmp_path}/{name}", x, fps=10)
    names = sorted(p.name for p in (tmp_path / "shots").iterdir())
    assert names == [f"{i:05d}.png" for i in range(3)]
    assert [p.name for p in tmp_path.iterdir()] == ["shots"]
    assert (read_video(tmp_path / "shots" / names[2])[:, 0] - x[:, 2]).abs().max() < 1.01 / 127.5
    write_video(f"{tmp_path}/{name}", x[:, :3], fps=10)  # again, over its own result


def test_percent_signs_are_parts_of_names(tmp_path: Path) -> None:
    write_video(tmp_path / "50%discount.mp4", moving_clip(3), fps=10)
    assert [path.name for path in tmp_path.iterdir()] == ["50%discount.mp4"]
    assert read_video(tmp_path / "50%discount.mp4").shape[1] == 3
    with pytest.raises(MediaError, match=r"frame_%05d\.png: videos are written as \.mp4"):
        write_video(tmp_path / "frame_%05d.png", moving_clip(3), fps=10)


def test_png_sequence_does_not_replace_a_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(MediaError, match="other files"):
        write_video(f"{tmp_path}/", moving_clip(2), fps=10)
    assert (tmp_path / "notes.txt").read_text() == "keep me"


def test_streamed_writing_equals_one_call(tmp_path: Path) -> None:
    x = moving_clip(10)
    write_video(tmp_path / "a.mp4", x, fps=10)
    with VideoWriter(tmp_path / "b.mp4", 10, 128, 96) as writer:
        for part in (x[:, :0], x[:, :1], x[:, 1:7], x[:, 7:]):
            writer.write(part)
    assert torch.equal(read_video(tmp_path / "a.mp4"), read_video(tmp_path / "b.mp4"))


def test_chunks(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_clip(10), fps=10)
    with VideoReader(tmp_path / "a.mp4") as reader:
        chunks = list(reader.chunks(4))
        assert [c.shape[1] for c in chunks] == [4, 4, 2]
        assert torch.equal(torch.cat(chunks, 1), torch.stack(list(reader), 1))  # and it reads a second time


# --- times -------------------------------------------------------------------------------------------------------


def test_variable_rate_is_sampled_by_time(tmp_path: Path) -> None:
    write_timed(tmp_path / "a.mkv", [0, 50, 100, 150, 200], [0, 100, 500, 520, 900])
    assert levels_of(read_video(tmp_path / "a.mkv")) == pytest.approx([0, 50, 100, 150, 200], abs=2)
    seen = levels_of(read_video(tmp_path / "a.mkv", fps=10, duration=1.0))
    assert seen == pytest.approx([0, 50, 50, 50, 50, 100, 150, 150, 150, 200], abs=2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif", ".webp", ".apng"])
def test_frame_times_survive_writing(tmp_path: Path, suffix: str) -> None:
    x, durations = grey_clip([0, 50, 100, 150]), [2.0, 0.1, 0.1, 1.0]
    write_video(tmp_path / f"a{suffix}", x, fps=1.25, durations=durations)
    with VideoReader(tmp_path / f"a{suffix}") as reader:
        assert levels_of(torch.stack(list(reader), 1)) == pytest.approx([0, 50, 100, 150], abs=2)
        assert reader.durations == pytest.approx(durations, abs=0.001)
        list(reader.chunks(3))
        assert len(reader.durations) == 4
    with VideoReader(tmp_path / f"a{suffix}", fps=10) as reader:
        assert len(list(reader)) == 32
        assert reader.durations == [0.1] * 32


def test_wrong_durations(tmp_path: Path) -> None:
    for durations in ([0.1], [0.1, -1.0], [0.1, float("nan")], [1e300, 0.1]):
        with pytest.raises(ValueError, match="durations"):
            write_video(tmp_path / "a.mp4", grey_clip([0, 1]), fps=10, durations=durations)


def test_frames_and_ticks_of_the_same_rate_meet_in_spite_of_rounded_times(tmp_path: Path) -> None:
    levels = [i * 4 for i in range(60)]
    write_timed(tmp_path / "a.mkv", levels, [round(i * 1000 / 30) for i in range(60)])
    assert levels_of(read_video(tmp_path / "a.mkv", fps=30)) == pytest.approx(levels, abs=2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_clip_that_starts_late_starts_at_zero(tmp_path: Path, suffix: str) -> None:
    with av.open(str(tmp_path / f"a{suffix}"), "w") as container:
        stream = container.add_stream("libvpx-vp9" if suffix == ".webm" else "libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), index * 10, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 30 + index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    wanted = [index * 10 for index in range(20)]
    assert levels_of(read_video(tmp_path / f"a{suffix}")) == pytest.approx(wanted, abs=3)
    assert levels_of(read_video(tmp_path / f"a{suffix}", fps=5)) == pytest.approx(wanted[::2], abs=3)
    assert levels_of(read_video(tmp_path / f"a{suffix}", fps=5, start=1.5)) == pytest.approx(wanted[15::2], abs=3)


def test_stretch_within_one_long_frame(tmp_path: Path) -> None:
    write_timed(tmp_path / "a.mkv", [0, 100, 200], [0, 100, 3000])
    assert levels_of(read_video(tmp_path / "a.mkv", start=2.0, duration=0.5)) == pytest.approx([100], abs=2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif"])
def test_start_and_duration(tmp_path: Path, suffix: str) -> None:
    levels = [i * 4 for i in range(60)]
    write_video(tmp_path / f"a{suffix}", grey_clip(levels), fps=10)
    path = tmp_path / f"a{suffix}"
    assert levels_of(read_video(path, start=2.0, duration=0.5)) == pytest.approx(levels[20:25], abs=3)
    assert levels_of(read_video(path, start=4.0)) == pytest.approx(levels[40:], abs=3)
    assert levels_of(read_video(path, fps=5, start=3.1, duration=1.0)) == pytest.approx(levels[31:41:2], abs=3)
    assert levels_of(read_video(path, fps=20, start=2.0, duration=0.2)) == pytest.approx(
        [levels[20], levels[20], levels[21], levels[21]], abs=3
    )
    assert read_video(path, max_frames=7).shape[1] == 7
    with VideoReader(path, fps=5, start=1.0, duration=2.0) as reader:
        assert reader.fps == 5
        assert reader.frame_count == 10 == len(list(reader))
    with pytest.raises(MediaError, match="start=99"):
        read_video(path, start=99)


@pytest.mark.parametrize("argument", ["fps", "duration"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_times(tmp_path: Path, argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=argument):
        VideoReader(tmp_path / "a.mp4", **{argument: value})


# --- colours and geometry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "limited", "size", "kr", "kb"),
    [
        (1, True, 32, 0.2126, 0.0722),
        (5, True, 32, 0.299, 0.114),
        (6, False, 32, 0.299, 0.114),
        (9, True, 32, 0.2627, 0.0593),
        (2, True, 32, 0.299, 0.114),  # untagged and small: BT.601
        (2, True, 720, 0.2126, 0.0722),  # untagged and large: BT.709
        (1, False, 32, 0.2126, 0.0722),
    ],
)
def test_matrix_and_range(tmp_path: Path, tag: int, limited: bool, size: int, kr: float, kb: float) -> None:
    wanted = np.array([200.0, 80.0, 40.0])
    r, g, b = wanted / 255
    luma = kr * r + (1 - kr - kb) * g + kb * b
    planes = np.array([luma, (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)])  # ITU-R BT.709, item 3.2
    scale, offset = ([219, 224, 224], [16, 128, 128]) if limited else ([255, 255, 255], [0, 128, 128])
    codes = np.round(planes * scale + offset).astype(np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, size, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, 1 if limited else 2
        picture = np.ascontiguousarray(np.broadcast_to(codes[:, None, None], (3, size, 64)))
        frame = av.VideoFrame.from_ndarray(picture, format="yuv444p")
        frame.colorspace, frame.color_range = tag, 1 if limited else 2
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    seen = (read_video(tmp_path / "a.mkv")[:, 0, size // 2, 32] + 1) * 127.5
    assert np.abs(seen.numpy() - wanted).max() < 2.5


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.5807), (18, 0.75)])
def test_high_dynamic_range(tmp_path: Path, transfer: int, white: float) -> None:
    # Reference white (203 cd/m2, ITU-R BT.2408: PQ code 58 %, HLG code 75 %) must be bright but short of the peak.
    codes = [0.0, white / 2, white, 1.0]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p10le"
        for code in codes:
            planes = np.full((48, 64), 512, np.uint16)
            planes[:32] = round(64 + 876 * code)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p10le")
            for target in (frame, stream.codec_context):
                target.colorspace, target.color_trc, target.color_primaries, target.color_range = 9, transfer, 9, 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = read_video(tmp_path / "a.mkv")
    black, middle, bright, peak = levels_of(clip)
    assert black <= 2
    assert 40 < middle < 160
    assert 200 < bright < 250
    assert peak > 250
    assert (clip[0] - clip[2]).abs().max() < 4 / 127.5  # grey stays grey


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation(tmp_path: Path, degrees: int) -> None:
    coded = grey_clip([100], 32, 64).clone()
    coded[:, :, :16, :32] = 0.9  # bright at the top left
    pixels = ((coded[:, 0].permute(1, 2, 0) + 1) * 127.5).to(torch.uint8).numpy()
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(degrees)  # counter-clockwise
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "a.mp4")) as container:
        turned = round(next(container.decode(video=0)).rotation)  # what FFmpeg says: counter-clockwise degrees
    assert turned % 360 in (degrees, -degrees % 360)
    shown = torch.rot90(coded, turned // 90, (2, 3))
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert (reader.height, reader.width) == tuple(shown.shape[2:])
        assert psnr(torch.stack(list(reader), 1), shown) > 30


def test_frames_that_change_size_are_resized_to_the_first(tmp_path: Path) -> None:
    parts = []
    for index, (width, height) in enumerate([(64, 48), (96, 80)]):
        path = tmp_path / f"{index}.ts"
        with av.open(str(path), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for level in (60, 120):
                picture = np.full((height, width, 3), level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        parts.append(path.read_bytes())
    (tmp_path / "a.h264").write_bytes(b"".join(parts))
    clip = read_video(tmp_path / "a.h264")
    assert clip.shape == (3, 4, 48, 64)
    assert levels_of(clip) == pytest.approx([60, 120, 60, 120], abs=3)


# --- sound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "codec", "target"),
    [("s.mp4", "aac", "o.mp4"), ("s.mkv", "libopus", "o.webm"), ("s.mp4", "aac", "o.mkv")],
)
def test_sound_is_copied_without_encoding(tmp_path: Path, source: str, codec: str, target: str) -> None:
    write_with_sound(tmp_path / source, codec=codec)
    with VideoReader(tmp_path / source) as reader:
        assert reader.has_audio
    write_video(tmp_path / target, moving_clip(20), fps=10, audio_from=tmp_path / source)
    before, after = sound_packets(tmp_path / source), sound_packets(tmp_path / target)
    assert len(before) > 50
    assert len(before) - len(after) <= 2
    assert after == before[: len(after)]
    with av.open(str(tmp_path / target)) as container:
        assert sum(f.samples for f in container.decode(audio=0)) > 90000
    assert read_video(tmp_path / target).shape[1] == 20


def test_sound_stops_with_the_pictures_and_starts_where_asked(tmp_path: Path) -> None:
    write_with_sound(tmp_path / "s.mp4", seconds=3)
    with VideoWriter(tmp_path / "o.mp4", 10, 48, 32, audio_from=tmp_path / "s.mp4", audio_start=1.5) as writer:
        writer.write(grey_clip([10] * 5))
    before, after = sound_packets(tmp_path / "s.mp4"), sound_packets(tmp_path / "o.mp4")
    assert 22 <= len(after) <= 27  # half a second of 1024-sample packets
    assert before.index(after[3]) == pytest.approx(1.5 * 48000 / 1024 + 3, abs=3)


@pytest.mark.parametrize(("name", "start"), [("s.m4a", 4), ("s.mka", 4), ("s.mka", 0)])
def test_sound_of_a_file_without_pictures_starts_where_asked(tmp_path: Path, name: str, start: int) -> None:
    write_with_sound(tmp_path / name, seconds=6, video=False)
    with VideoWriter(tmp_path / "o.mp4", 10, 48, 32, audio_from=tmp_path / name, audio_start=start) as writer:
        writer.write(grey_clip([10] * 5))
    before, after = sound_packets(tmp_path / name), sound_packets(tmp_path / "o.mp4")
    assert before.index(after[3]) == pytest.approx(start * 48000 / 1024 + 3, abs=3)


def test_sound_that_does_not_fit_is_left_out_with_a_warning(tmp_path: Path) -> None:
    write_with_sound(tmp_path / "s.mp4")
    for name in ("o.webm", "o.gif", "o/"):
        with pytest.warns(UserWarning, match="left out"):
            write_video(f"{tmp_path}/{name}", grey_clip([10] * 5), fps=10, audio_from=tmp_path / "s.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a source without sound is no reason to warn
        write_video(tmp_path / "silent.mp4", grey_clip([10] * 5), fps=10, audio_from=tmp_path / "o.gif")
    with pytest.raises(MediaError, match="no such file"):
        write_video(tmp_path / "p.mp4", grey_clip([10]), fps=10, audio_from=tmp_path / "missing.mp4")


# --- bad files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", [read_video, VideoReader])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"Dear reader, this is a letter and not a clip.\n" * 50, "not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n", "not a video"),
        (bytes(range(256)) * 40, "not a video"),
    ],
    ids=["empty", "text", "playlist", "bytes"],
)
def test_not_a_clip(tmp_path: Path, reading: type, content: bytes, words: str) -> None:
    for name in ("a.mp4", "a.txt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=words) as caught:
            reading(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


def test_audio_only(tmp_path: Path) -> None:
    write_with_sound(tmp_path / "a.mp4", video=False)
    with pytest.raises(MediaError, match="no video stream, only audio"):
        VideoReader(tmp_path / "a.mp4")


def test_cover_art_is_no_clip(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=48000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode())
        for begin in range(0, 48000, 960):
            samples = av.AudioFrame.from_ndarray(np.zeros((2, 960), np.float32), format="fltp", layout="stereo")
            samples.sample_rate, samples.pts, samples.time_base = 48000, begin, Fraction(1, 48000)
            container.mux(sound.encode(samples))
        container.mux(sound.encode())
    with av.open(str(tmp_path / "a.m4a")) as container:
        assert container.streams.video[0].disposition & av.stream.Disposition.attached_pic
    with pytest.raises(MediaError, match="no video stream"):
        VideoReader(tmp_path / "a.m4a")


def test_missing_folder_unreadable(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(MediaError, match="the folder holds no images"):
        read_video(tmp_path)
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    write_video(tmp_path / "a.mp4", grey_clip([1]), fps=1)
    (tmp_path / "a.mp4").chmod(0)
    with pytest.raises(MediaError, match="cannot be read"):
        read_video(tmp_path / "a.mp4")


def test_clip_without_frames(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(MediaError, match=r"no frame|not a video"):
        VideoReader(tmp_path / "a.mkv")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
def test_truncated_clip(tmp_path: Path, suffix: str) -> None:
    noise = torch.rand(3, 40, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    path = tmp_path / f"a{suffix}"
    if suffix == ".avi":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for frame in noise.unbind(1):
                picture = ((frame.permute(1, 2, 0) + 1) * 127.5).to(torch.uint8).numpy()
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
            container.mux(stream.encode())
    else:
        write_video(path, noise, fps=10)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(MediaError, match="truncated") as caught:
        read_video(path)
    assert str(caught.value).startswith(str(path))
    with pytest.warns(UserWarning, match="truncated"):
        part = read_video(path, allow_truncated=True)
    assert 10 < part.shape[1] < 30
    assert read_video(path, max_frames=5).shape[1] == 5  # what is there can be read
    path.write_bytes(content[:300])
    with pytest.raises(MediaError, match="a" + suffix):
        read_video(path)


def test_damage_in_the_middle_is_survived_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    noise = torch.rand(3, 40, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_video(path, noise, fps=10)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20000] = bytes(20000)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        clip = read_video(path)
    assert 30 <= clip.shape[1] <= 40
    assert psnr(clip[:, 0], read_video(path, max_frames=1)[:, 0]) > 60


# --- writing goes wrong ------------------------------------------------------------------------------------------


def write_until(path: str, error: BaseException) -> None:
    with VideoWriter(path, 10, 128, 96) as writer:
        writer.write(moving_clip(60))  # long enough that encoders have put out something
        raise error


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp", "a/"])
def test_interrupted_writing_leaves_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_until(f"{tmp_path}/{name}", KeyboardInterrupt())
    assert not list(tmp_path.iterdir())


def test_interrupted_writing_keeps_the_former_file(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_clip(2), fps=10)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(RuntimeError):
        write_until(f"{tmp_path}/a.mp4", RuntimeError())
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_no_frames_no_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no frames"), VideoWriter(tmp_path / "a.mp4", 10, 128, 96):
        pass
    with pytest.raises(MediaError, match="no frames"):
        write_video(tmp_path / "a.gif", torch.zeros(3, 0, 8, 8), fps=10)
    assert not list(tmp_path.iterdir())


def test_wrong_frames_and_names(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"\.mp4.*'\.xyz'"):
        VideoWriter(tmp_path / "a.xyz", 10, 8, 8)
    with pytest.raises(ValueError, match="8x8"), VideoWriter(tmp_path / "a.mp4", 10, 8, 8) as writer:
        writer.write(torch.zeros(3, 1, 8, 16))
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "a.mp4", torch.zeros(3, 1, 8, 8, dtype=torch.uint8), fps=10)
    with pytest.raises(ValueError, match="fps"):
        write_video(tmp_path / "a.mp4", torch.zeros(3, 1, 8, 8), fps=0)
    with pytest.raises(ValueError, match="with"):
        VideoWriter(tmp_path / "a.mp4", 10, 8, 8).write(torch.zeros(3, 1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    noise = torch.rand(3, 30, 128, 128) * 2 - 1
    with full_disk(20_000):
        for name in ("a.mp4", "a.webm", "a.gif", "a.apng", "a.mkv", "a/"):
            with pytest.raises(MediaError, match=name.strip("/")):
                write_video(f"{tmp_path}/{name}", noise, fps=10)
        with pytest.raises(MediaError):
            write_image(tmp_path / "a.png", noise[:, 0])
    assert not list(tmp_path.iterdir())


# --- memory and lists ---------------------------------------------------------------------------------------------


MEMORY = """
import sys
from omnitok.data import VideoReader, VideoWriter
with VideoReader(sys.argv[1], fps=25) as reader, VideoWriter(sys.argv[2], 25, reader.width, reader.height) as writer:
    for chunk in reader.chunks(8):
        writer.write(chunk)
# not ru_maxrss, which begins with the memory of the process that started this one
print(writer.frames_written, open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured through /proc")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    peaks = []
    for seconds in (8, 32):
        source = tmp_path / f"{seconds}.mp4"
        x = moving_clip(25, 192, 256)
        with VideoWriter(source, 25, 256, 192) as writer:
            for _ in range(seconds):
                writer.write(x)
        command = [sys.executable, "-c", MEMORY, str(source), str(tmp_path / "out.mp4")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        frames, peak = map(int, done.stdout.split())
        assert frames == seconds * 25
        peaks.append(peak)
    assert peaks[1] < peaks[0] * 1.05  # 600 more frames would be 350 MB as float32, 90 MB as bytes


def test_reader_holds_no_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.gif", moving_clip(120), fps=20)
    tracemalloc.start()
    for _ in VideoReader(tmp_path / "a.gif"):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6  # 120 frames are 4.4 MB even as bytes


def test_detect_modality(tmp_path: Path) -> None:
    write_image(tmp_path / "a.webp", torch.zeros(3, 8, 8))
    assert detect_modality(tmp_path / "a.webp") == "image"
    write_video(tmp_path / "a.mp4", grey_clip([1, 2]), fps=10)
    (tmp_path / "a.mp4").rename(tmp_path / "clip.data")
    assert detect_modality(tmp_path / "clip.data") == "video"
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(MediaError, match="not a video"):
        detect_modality(tmp_path / "a.txt")
    with pytest.raises(MediaError, match="no such file"):
        detect_modality(tmp_path / "missing.mp4")


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is of glibc")
def test_an_encoded_video_does_not_depend_on_what_memory_held(tmp_path: Path) -> None:
    code = (
        "import sys, torch\nfrom omnitok.data import write_video\n"
        "torch.manual_seed(0)\n"
        "coarse = torch.nn.functional.interpolate(torch.rand(3, 20, 8, 12), (64, 48), mode='bilinear')\n"
        "write_video(sys.argv[1], coarse * 1.6 - 0.8, 10)\n"
    )
    for value in ("1", "170"):
        environment = {**os.environ, "MALLOC_PERTURB_": value}
        subprocess.run([sys.executable, "-c", code, tmp_path / f"{value}.mp4"], check=True, env=environment)
    assert (tmp_path / "1.mp4").read_bytes() == (tmp_path / "170.mp4").read_bytes()
