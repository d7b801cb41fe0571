"""What containers say of their frames: clocks that restart, repeats, tracks, alpha, and what is not to be opened."""

import itertools
import os
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.processes import TIMEOUT
from omnitok.data import VideoReader, detect_modality, read_image, read_video, write_video
from omnitok.data.containers import Clock
from omnitok.errors import MediaError

QUALITY = {"flags": "+qscale", "global_quality": "118"}


def write_levels(
    path: Path, levels: list[int], rate: int = 10, codec: str = "libx264", form: str | None = None, **options: str
) -> None:
    """A small video, each frame of one gray level."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_levels(path: Path, **how: float) -> tuple[list[int], list[float]]:
    """Gray level and duration of every frame."""
    with VideoReader(path, **how) as reader:
        levels = [round((frame[1, 24, 32].item() + 1) * 127.5) for frame in reader]
        return levels, reader.durations


# --- clocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "codec"), [("mpegts", "libx264"), ("vob", "mpeg2video")])
def test_a_clock_that_restarts_loses_and_repeats_nothing(tmp_path: Path, form: str, codec: str) -> None:
    whole = b""
    for part in (range(0, 100, 5), range(100, 200, 5)):
        write_levels(tmp_path / "part", list(part), 25, codec, form, **(QUALITY if codec == "mpeg2video" else {}))
        whole += (tmp_path / "part").read_bytes()
    path = tmp_path / ("a.ts" if form == "mpegts" else "a.vob")
    path.write_bytes(whole)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        levels, durations = read_levels(path)
        assert levels == pytest.approx(range(0, 200, 5), abs=3)
        assert durations == pytest.approx([1 / 25] * 40, abs=1e-6)
        assert read_levels(path, fps=12.5)[0] == pytest.approx(range(0, 200, 10), abs=3)
        assert read_levels(path, start=1.2)[0] == pytest.approx(range(150, 200, 5), abs=3)
    jumps = [str(warning.message) for warning in told if "the clock of" in str(warning.message)]
    assert len(jumps) == 3
    assert "the clock of the video jumps once, first at 0.80 s" in jumps[0]


def times_of(stamps: list[float | None], length: float = 0.1, longest: float = 10.0) -> tuple[list[float], int]:
    clock = Clock(longest)
    return [round(clock.time(stamp, length), 6) for stamp in stamps], len(clock.jumps)


def test_clock() -> None:
    assert times_of([5.0, 5.1, 5.4, 5.5]) == ([0, 0.1, 0.4, 0.5], 0)
    assert times_of([5.0, 5.1, 0.0, 0.1, 99.0, 99.1]) == ([0, 0.1, 0.2, 0.3, 0.4, 0.5], 2)
    assert times_of([5.0, None, None, 5.3]) == ([0, 0.1, 0.2, 0.3], 0)
    assert times_of([0.0, 0.0, 0.1, 0.1, 0.2]) == ([0, 0.05, 0.1, 0.15, 0.2], 0)  # ties
    assert times_of([0.0, 0.2, 0.15, 0.3]) == ([0, 0.2, 0.25, 0.3], 0)  # a little back
    standing = times_of([0.0] * 9)[0]
    assert all(a < b for a, b in itertools.pairwise(standing))
    assert times_of([None, None, 3.0, 3.1])[0] == [0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_late_start_decodes_no_more_than_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    write_levels(tmp_path / f"a{suffix}", [*range(0, 200, 2)] * 2, 25, g="25")
    times: list[float] = []
    tell = Clock.time
    monkeypatch.setattr(Clock, "time", lambda *given: times.append(tell(*given)) or times[-1])
    with VideoReader(tmp_path / f"a{suffix}", start=6.0) as reader:
        assert reader.can_seek
        times.clear()
        assert (next(iter(reader))[1, 24, 32] + 1) * 127.5 == pytest.approx(100, abs=3)
    assert len(times) < 70


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_mxf(tmp_path: Path, codec: str) -> None:
    write_levels(tmp_path / "a.mxf", list(range(0, 240, 4)), 25, codec, bf="2", g="12", **QUALITY)
    assert read_levels(tmp_path / "a.mxf")[0] == pytest.approx(range(0, 240, 4), abs=3)
    assert read_levels(tmp_path / "a.mxf", start=1.6)[0] == pytest.approx(range(160, 240, 4), abs=3)
    assert read_levels(tmp_path / "a.mxf", fps=12.5, start=1.2)[0] == pytest.approx(range(120, 240, 8), abs=3)


def test_raw_streams_have_the_rate_of_their_headers(tmp_path: Path) -> None:
    write_levels(tmp_path / "a.h264", list(range(0, 200, 4)), 50, form="h264")
    with VideoReader(tmp_path / "a.h264") as reader:
        assert reader.fps == 50
        list(reader)
        assert sum(reader.durations) == pytest.approx(1)


def test_even_rates_stay_even_where_containers_round(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", torch.zeros(3, 40, 16, 16), fps=30)
    with VideoReader(tmp_path / "a.mkv") as reader:
        list(reader)
        assert reader.durations == pytest.approx([1 / 30] * 40, abs=1e-9)


# --- streams -----------------------------------------------------------------------------------------------------


def test_repeat_packets_show_the_frame_again(tmp_path: Path) -> None:
    write_levels(tmp_path / "a.avi", [20, 90, 160], codec="ffv1")
    with av.open(str(tmp_path / "a.avi")) as source, av.open(str(tmp_path / "b.nut"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [bytes(packet) for packet in source.demux(source.streams.video[0]) if packet.size]
        for index, content in enumerate([packets[0], b"", packets[1], b"", b"", packets[2], b""]):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 10)
            packet.duration, packet.is_keyframe = 1, True
            target.mux(packet)
    levels, durations = read_levels(tmp_path / "b.nut")
    assert levels == [20, 20, 90, 90, 90, 160, 160]
    assert sum(durations) == pytest.approx(0.7, abs=0.01)


def test_alpha_in_webm_is_over_white(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for alpha in (0, 0, 255):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 4), (200, 0, 0, alpha), np.uint8), format="rgba")
            container.mux(stream.encode(frame.reformat(format="yuva420p")))
        container.mux(stream.encode())
    video = read_video(tmp_path / "a.webm")
    assert (video[:, :2] > 0.98).all()
    assert (video[1, 2] < -0.8).all()


def test_the_default_track_is_read(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for stream, width in zip(streams, (32, 96), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
        streams[0].disposition, streams[1].disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for stream in streams:
            for _ in range(3):
                pixels = np.zeros((48, stream.width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    assert read_video(tmp_path / "a.mkv").shape == (3, 3, 48, 96)


def test_sixteen_bit_gray_that_counts_from_white(tmp_path: Path) -> None:
    for name, photometric in (("black.tif", 1), ("white.tif", 0)):
        Image.fromarray(np.array([[0, 20000, 65535]], np.uint16)).save(tmp_path / name, tiffinfo={262: photometric})
    assert torch.allclose(read_image(tmp_path / "white.tif"), -read_image(tmp_path / "black.tif"), atol=1e-6)


# --- what is not opened ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", [read_image, read_video, VideoReader, detect_modality])
def test_a_pipe_is_refused_at_once(tmp_path: Path, reading: type) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match=r"a\.mp4: is no regular file"):
        reading(tmp_path / "a.mp4")


PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile good.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\ngood.mp4\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period/></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "vapoursynth": "import vapoursynth\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_open_nothing(tmp_path: Path, kind: str) -> None:
    write_levels(tmp_path / "good.mp4", [0, 50])
    before = os.stat(tmp_path / "good.mp4").st_atime_ns
    (tmp_path / "a.mp4").write_text(PLAYLISTS[kind])
    with pytest.raises(MediaError, match=r"a\.mp4: not a video"):
        VideoReader(tmp_path / "a.mp4")
    assert os.stat(tmp_path / "good.mp4").st_atime_ns == before


def test_no_other_program_is_asked_for_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(MediaError, match="not an image"):
        read_image(tmp_path / "a.png")


# --- bounds ------------------------------------------------------------------------------------------------------


def write_blank_png(path: Path, width: int, height: int) -> None:
    """A PNG of one palette color, in a few kilobytes, without the memory it unfolds to."""
    script = (
        "import struct,sys,zlib\n"
        "w,h=int(sys.argv[2]),int(sys.argv[3])\n"
        "c=lambda t,d: struct.pack('>I',len(d))+t+d+struct.pack('>I',zlib.crc32(t+d))\n"
        "z=zlib.compressobj(9); row=bytes((w+7)//8+1); rows=[z.compress(row*64) for _ in range(h//64)]\n"
        "rows+=[z.compress(row*(h%64)),z.flush()]\n"
        "open(sys.argv[1],'wb').write(b'\\x89PNG\\r\\n\\x1a\\n'+c(b'IHDR',struct.pack('>IIBBBBB',w,h,1,3,0,0,0))"
        "+c(b'PLTE',bytes([200,100,50]))+c(b'IDAT',b''.join(rows))+c(b'IEND',b''))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path), str(width), str(height)], check=True)


PEAK = """
import sys
from omnitok.data import read_image
from omnitok.data.loader import load_training_image
if sys.argv[2] == "read":
    pixels = read_image(sys.argv[1], size=32)
else:
    pixels = load_training_image(sys.argv[1], 32, sys.argv[2], False, 0)
# not ru_maxrss, which begins with the memory of the process that started this one
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024, *pixels.mean((1, 2)).tolist())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured through /proc")
@pytest.mark.parametrize("policy", ["read", "random_resized_crop"])
def test_large_images_are_made_smaller_as_bytes(tmp_path: Path, policy: str) -> None:
    write_blank_png(tmp_path / "a.png", 8000, 16000)
    with pytest.raises(MediaError, match=r"a\.png: an image of 8000x16000 pixels is above .* OMNITOK_MAX_PIXELS"):
        read_image(tmp_path / "a.png")
    command = [sys.executable, "-c", PEAK, str(tmp_path / "a.png"), policy]
    peak, *means = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout.split()
    assert int(peak) < 700  # MB; as floats they would be 1536
    assert [float(mean) for mean in means] == pytest.approx([200 / 127.5 - 1, 100 / 127.5 - 1, 50 / 127.5 - 1])


def test_a_line_of_pixels_is_no_image(tmp_path: Path) -> None:
    write_blank_png(tmp_path / "a.png", 1, 2**24)
    with pytest.raises(MediaError, match=r"a\.png: an image of 1x16777216 pixels is above .* OMNITOK_MAX_PIXELS"):
        read_image(tmp_path / "a.png", size=32)
    write_blank_png(tmp_path / "b.png", 40, 200_000)
    assert read_image(tmp_path / "b.png", size=64).mean((1, 2)).tolist() == pytest.approx(
        [200 / 127.5 - 1, 100 / 127.5 - 1, 50 / 127.5 - 1], abs=0.01
    )


@pytest.mark.parametrize(
    ("orientation", "suffix"), [(1, ".png"), (2, ".jpg"), (3, ".png"), (4, ".jpg"), *((n, ".jpg") for n in range(5, 9))]
)
def test_smaller_as_bytes_is_the_same_image(tmp_path: Path, orientation: int, suffix: str) -> None:
    small = np.random.default_rng(0).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((2300, 1900), Image.Resampling.BILINEAR)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a{suffix}", exif=exif, compress_level=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = read_image(tmp_path / f"a{suffix}", size=64)
    whole = read_image(tmp_path / f"a{suffix}")
    square = whole[:, (whole.shape[1] - 1900) // 2 :, (whole.shape[2] - 1900) // 2 :][:, :1900, :1900]
    wanted = torch.nn.functional.interpolate(square[None], (64, 64), mode="bicubic", antialias=True)[0]
    assert (seen - wanted.clamp(-1, 1)).abs().max() < (0.06 if suffix == ".jpg" else 0.02)


def test_animations_are_bounded_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("RGB", (64, 64), (9 * index, 0, 0)) for index in range(20)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    monkeypatch.setenv("OMNITOK_MAX_ANIMATION_PIXELS", str(19 * 2**15))
    with pytest.raises(MediaError, match=r"a\.gif: an animation of 64x64 .* 20 frames.* OMNITOK_MAX_ANIMATION_PIXELS"):
        VideoReader(tmp_path / "a.gif")
    monkeypatch.setenv("OMNITOK_MAX_ANIMATION_PIXELS", str(20 * 2**15))
    assert len(list(VideoReader(tmp_path / "a.gif"))) == 20
    monkeypatch.setenv("OMNITOK_MAX_PIXELS", str(4 * 64 * 64 - 1))
    with pytest.raises(MediaError, match=r"a\.gif: an animation of 64x64 pixels, .* OMNITOK_MAX_PIXELS"):
        VideoReader(tmp_path / "a.gif")
    assert read_image(tmp_path / "a.gif").shape == (3, 64, 64)


def test_frames_of_videos_are_bounded_by_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_levels(tmp_path / "a.mp4", [0, 50])
    monkeypatch.setenv("OMNITOK_MAX_PIXELS", str(64 * 48 - 1))
    with pytest.raises(MediaError, match=r"a\.mp4: a video of 64x48 pixels a frame is above .* OMNITOK_MAX_PIXELS"):
        VideoReader(tmp_path / "a.mp4")


def test_repeats_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mkv", torch.zeros(3, 3, 16, 16), 10, durations=[0.1, 2000.0, 0.1])
    with VideoReader(tmp_path / "a.mkv", fps=30) as reader, pytest.raises(MediaError, match="OMNITOK_MAX_REPEATS"):
        list(reader)
    with VideoReader(tmp_path / "a.mkv", fps=1) as reader:
        assert len(list(reader)) == 2001
    monkeypatch.setenv("OMNITOK_MAX_REPEATS", "100000")
    with VideoReader(tmp_path / "a.mkv", fps=30) as reader:
        assert sum(1 for _ in reader) == 60006


def test_a_rate_of_hours_is_not_believed(tmp_path: Path) -> None:
    write_levels(tmp_path / "a.avi", [10, 80, 150], codec="ffv1")
    content = bytearray((tmp_path / "a.avi").read_bytes())
    place = content.find(b"strh") + 8 + 20  # dwScale of the stream's header
    content[place : place + 4] = (10**6).to_bytes(4, "little")
    (tmp_path / "a.avi").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(read_levels(tmp_path / "a.avi", fps=7.5)[0]) < 10


def test_newer_av_is_not_asked_for_what_it_has_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version 19 needs Python 3.12; `make wheel` reads files with it."""
    write_levels(tmp_path / "a.mp4", [0, 50])
    real = av.open

    def newer(*given: object, **options: object) -> object:
        if "metadata_errors" in options:
            raise TypeError("open() got an unexpected keyword argument 'metadata_errors'")
        return real(*given, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(av, "__version__", "19.0.2")
    monkeypatch.setattr(av, "open", newer)
    assert len(read_levels(tmp_path / "a.mp4")[0]) == 2
